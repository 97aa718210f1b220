"""An echo kernel, and a driver for an agent: for what a transport adds to the contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from hermes.spi.transport import Agent
from hermes.testing.kernel import EchoKernel

DEADLINE_S = 60.0


@pytest.fixture
def kernel() -> EchoKernel:
    """A fresh echo kernel."""
    return EchoKernel()


@pytest.fixture
def drive() -> Iterator[Callable[[Agent, Callable[[], object]], None]]:
    """Poll an agent until a condition holds; fails after a deadline."""

    def until(agent: Agent, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come to hold"
            agent.poll(1_000_000)

    return until
