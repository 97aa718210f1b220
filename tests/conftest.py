"""Settings of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.environment import Environment

# A busy machine is no failure: how long an example may take is pytest-timeout's business.
settings.register_profile("hermes", deadline=None, print_blob=True)
settings.load_profile("hermes")


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment to install into, which sees everything that the tests see."""
    return Environment(tmp_path / "environment")
