"""Whether io_uring works where the tests run: what needs it is skipped with the plugin's own reason
where it does not."""

from __future__ import annotations

import pytest

from hermes_uring.probe import obstacle

OBSTACLE = obstacle()

needs_uring = pytest.mark.skipif(OBSTACLE is not None, reason=f"no io_uring here: {OBSTACLE}")
