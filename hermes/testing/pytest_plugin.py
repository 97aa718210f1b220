"""A pytest plugin, there as soon as Hermes is installed: a broker and a client for a test.

Imports nothing of Hermes before a test asks for one; ``docs/testing.md`` has examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hermes import Client
    from hermes.broker import Broker

MARKER = "hermes_broker"
LISTENER = "inproc:"
STORAGE = "memory:"
TIMEOUT_S = 10.0
"""How long calls of ``hermes_client`` wait for the broker, which is in the same process."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that a project may set for all its tests, in its pytest configuration."""
    parser.addini(
        "hermes_listener",
        f"where the fixture hermes_broker listens (default {LISTENER}); tcp://127.0.0.1:0 is a "
        "free port",
        default=LISTENER,
    )
    parser.addini(
        "hermes_storage",
        f"where the fixture hermes_broker keeps its streams (default {STORAGE})",
        default=STORAGE,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(**settings): settings of the fixture hermes_broker, as hermes.broker.Broker "
        "takes them",
    )


@pytest.fixture
def hermes_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker of the test's own, in this process: ``hermes_broker.url`` is where it is.

    The marker ``hermes_broker`` gives it settings, of the class, the module and the test together;
    so does an indirect parameter, which is a listener's URL or a dictionary of settings.
    """
    from hermes.broker import Broker

    with Broker(**settings(request)) as broker:
        yield broker


@pytest.fixture
def hermes_client(hermes_broker: Broker) -> Iterator[Client]:
    """A client of :func:`hermes_broker`, closed after the test."""
    import hermes

    with hermes.connect(hermes_broker.url, timeout=TIMEOUT_S) as client:
        yield client


def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings from the configuration, the markers (the nearest last) and the parameter."""
    chosen: dict[str, Any] = {
        "listeners": [request.config.getini("hermes_listener")],
        "storage": request.config.getini("hermes_storage"),
        "idle": "block",  # a test's broker has nothing to gain from spinning
    }
    for marker in reversed(list(request.node.iter_markers(MARKER))):
        if marker.args:
            raise pytest.UsageError(
                f"the marker {MARKER} takes settings by name, as in "
                f'{MARKER}(listeners=["tcp://127.0.0.1:0"])'
            )
        chosen.update(marker.kwargs)
    parameter = getattr(request, "param", None)
    if isinstance(parameter, str):
        chosen["listeners"] = [parameter]
    elif parameter is not None:
        chosen.update(parameter)
    return chosen
