"""A pytest plugin: ``-k`` selects tests of the contract suites also by their group, the suite's
module, as in ``-k lifecycle``."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let the test be found by the module that defines it."""
    function = getattr(item, "function", None)
    group = getattr(function, "__module__", "").rpartition(".")[2]
    item.extra_keyword_matches.add(group)
