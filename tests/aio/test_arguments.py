"""Both clients take and refuse the same arguments, with the same words, where they are passed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

import hermes
from hermes import aio
from hermes.errors import UsageError
from tests.aio.conftest import Run
from tests.pool import POOL

pytestmark = pytest.mark.slow

CONNECT = ["url", "timeout", "name", "reconnect", "queue_bytes", "identity", "credentials"]
PUBLISHER = ["topic", "ack", "linger", "window", "publisher_id", "timeout"]
SUBSCRIBE = ["pattern", "start", "durable", "on_gap", "timeout"]


def refusal(call: Callable[..., Any], **arguments: Any) -> tuple[type, str] | None:
    """The type and the text with which a call refuses an argument; None: it takes it."""
    try:
        made = call(**arguments)
    except UsageError as error:
        return type(error), str(error)
    except hermes.HermesError:  # nobody answers there, or in time
        return None
    close = getattr(made, "close", None)  # nothing is open yet where it is to be awaited
    if close is not None:
        with contextlib.suppress(hermes.HermesError):
            close()
    return None


@pytest.mark.parametrize("parameter", CONNECT)
def test_connect_refuses_the_same(parameter: str) -> None:
    """An argument is refused by ``hermes.aio.connect``, when it is called, if ``hermes.connect`` refuses it."""
    for name, value in POOL.items():
        arguments = {"url": "inproc://nobody", "timeout": 0.01, parameter: value}
        if parameter == "url" and isinstance(value, str):
            continue  # what a URL says is looked at when it is dialled
        assert refusal(aio.connect, **arguments) == refusal(hermes.connect, **arguments), name


def test_opening_refuses_the_same(run: Run) -> None:
    """An argument of ``publisher`` and ``subscribe`` is refused by both clients, when they are called, or by
    none."""

    async def main(broker: hermes.Broker) -> None:
        async with aio.connect(broker.url) as ours:
            with hermes.connect(broker.url) as theirs:
                for call, parameters in (("publisher", PUBLISHER), ("subscribe", SUBSCRIBE)):
                    for parameter in parameters:
                        for name, value in POOL.items():
                            arguments = {parameter: value}
                            if call == "subscribe":
                                arguments = {"pattern": "a", **arguments}
                            assert refusal(getattr(ours, call), **arguments) == refusal(
                                getattr(theirs, call), **arguments
                            ), (call, parameter, name)

    with hermes.Broker(listeners=["inproc:"], storage="memory:") as broker:
        run(main(broker))
