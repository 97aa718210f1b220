"""How much a test does: a share in `make test`, all of it in `make test-long`.

Tests that repeat something, with random input or in bulk, prove more the more they do.  They name both
counts with :func:`effort` and have the mark ``thorough``, unless they are hypothesis' (which gives its
tests a mark of its own): `make test-long` runs them again with ``HERMES_TESTS_THOROUGH=1``.
"""

from __future__ import annotations

import os
from typing import TypeVar

Amount = TypeVar("Amount")

THOROUGH = bool(os.environ.get("HERMES_TESTS_THOROUGH"))


def effort(share: Amount, whole: Amount) -> Amount:
    """Return ``whole`` in `make test-long`, ``share`` elsewhere."""
    return whole if THOROUGH else share
