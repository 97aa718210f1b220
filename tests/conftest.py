"""Settings of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.effort import effort
from tests.environment import Environment

HERE = Path(__file__).parent
SLOW_FOLDERS = frozenset({"bench", "benchmarks", "integration", "packaging", "plugins"})
"""Folders whose tests start processes or move much data; `make check` leaves them out."""
SLOW_FIXTURES = frozenset({"compile_c", "run_c", "environment"})
"""Fixtures that compile C or make an environment, for which a test counts as slow wherever it is."""

# A busy machine is no failure: how long an example may take is pytest-timeout's business.
settings.register_profile("hermes", deadline=None, print_blob=True, max_examples=effort(40, 100))
settings.load_profile("hermes")

LEAKS = "test_connecting_and_closing_leaves_nothing_behind"
"""A check of the transport kit that does more in `make test-long`; its class says how much, in ``cycles``."""


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment to install into, which sees everything that the tests see."""
    return Environment(tmp_path / "environment")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what is slow by where it is, or by what it needs."""
    folder = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
    if folder in SLOW_FOLDERS or SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
        item.add_marker(pytest.mark.slow)
    if item.name == LEAKS:
        item.add_marker(pytest.mark.thorough)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files that have slow tests: one of them alone at the end would keep one core."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # stable: a file stays together
