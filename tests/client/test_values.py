"""Values behave like values: messages, gaps, starts, batches and errors are compared, hashed, copied,
pickled and matched; what belongs to a connection refuses to be.
"""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

import hermes
from hermes import errors
from hermes.spi.hooks import Denial, Grant

WAIT_S = 60.0
COPIES: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle {protocol}": lambda value, p=protocol: pickle.loads(pickle.dumps(value, p))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
MESSAGE = hermes.Message("md.a", b"x", stream="trades", sequence=7, timestamp_ns=9)
HASHED = [
    MESSAGE,
    hermes.Gap("trades", 1, 2, "retention"),
    Grant("alice", ("a.>",), inspect=True),
    Denial("no"),
]
COMPARED = [*HASHED, hermes.Start(at="positions", positions={"trades": 3}, otherwise="latest")]


def batch(client: hermes.Client) -> hermes.Batch:
    """The next three messages of a stream, as they arrive together."""
    with client.subscribe("md.>") as subscription:
        client.publisher("md.a").send_many([b"one", b"two", b"three"])
        return next(subscription.batches(timeout=WAIT_S))


@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("value", COMPARED, ids=lambda value: type(value).__name__)
def test_a_copy_of_a_value_equals_it(value: Any, how: Callable[[Any], Any]) -> None:
    """A pickled or copied value is of the same type, equal, and has an equal hash if it has one."""
    other = how(value)

    assert type(other) is type(value)
    assert other == value
    assert value != object()
    if value in HASHED:
        assert len({value, other}) == 1


def test_messages_that_differ_are_not_equal() -> None:
    """Every field of a message counts."""
    fields: dict[str, Any] = {
        "topic": "md.a", "payload": b"x", "stream": "trades", "sequence": 7, "timestamp_ns": 9,
    }  # fmt: skip
    changed = {"topic": "b", "payload": b"y", "stream": "b", "sequence": 8, "timestamp_ns": 1}

    assert hermes.Message(**fields) == MESSAGE
    assert all(hermes.Message(**{**fields, name: changed[name]}) != MESSAGE for name in fields)


def test_a_received_message_is_the_one_a_program_makes(client: hermes.Client) -> None:
    """A test of a program can state the message that it expects."""
    with client.subscribe("md.>") as subscription:
        client.publisher("md.a").send(b"x", timestamp_ns=5)
        message = subscription.receive(timeout=WAIT_S)

    assert message == hermes.Message("md.a", b"x", sequence=1, timestamp_ns=5)
    match message:
        case hermes.Message(topic, payload):
            assert (topic, payload) == ("md.a", b"x")


def test_a_value_can_be_matched_by_position() -> None:
    """``__match_args__`` names real attributes of each."""
    for kind in (hermes.Message, hermes.Gap, hermes.Start, hermes.Batch, Grant):
        assert kind.__match_args__
        assert set(kind.__match_args__) <= set(dir(kind)) | set(inspect.signature(kind).parameters)


@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES.keys())
def test_a_copied_batch_has_its_messages(client: hermes.Client, how: Callable[[Any], Any]) -> None:
    """A copy is equal, has memory of its own, and everything that a batch has."""
    found = batch(client)
    other = how(found)

    assert other == found
    assert hash(other) == hash(found)
    assert other.messages() == found.messages()
    assert other.frames.obj is not found.frames.obj
    assert other.topics == ["md.a"] * 3
    assert len(repr(other)) < 200


def test_numbers_of_a_batch_stay_integers(client: hermes.Client) -> None:
    """The difference of a timestamp and a 64-bit integer is exact."""
    found = batch(client)
    begun = np.int64(found.messages()[0].timestamp_ns) - np.int64(1)

    assert found.sequences.dtype == found.timestamps.dtype == np.int64
    assert (found.timestamps - begun).dtype == np.int64
    assert (found.timestamps - begun)[0] == 1


@pytest.mark.parametrize("dtype", [None, "O", [("a", "O")], "nonsense", 5, "V0", object()])
def test_rows_of_no_elements_are_refused(client: hermes.Client, dtype: Any) -> None:
    """``dtype`` is named by the error."""
    with pytest.raises(errors.UsageError, match="dtype"):
        batch(client).rows(dtype)


def every_error() -> list[errors.HermesError]:
    """One of each kind, with other than the usual attributes."""
    special: dict[type, dict[str, Any]] = {
        errors.Timeout: {"taken": 3, "sequence": 9, "queued": 4},
        errors.GapDetected: {"stream": "trades", "first": 1, "last": 2},
        errors.Refused: {"code": "limit"},
        errors.MalformedInput: {"code": "bad_crc", "offset": 12},
    }
    kinds = [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, errors.HermesError)
    ]
    return [kind("the reason", **special.get(kind, {})) for kind in kinds]


def attributes(error: errors.HermesError) -> tuple[Any, ...]:
    """All that tells one from another."""
    return type(error), error.args, str(error), vars(error)


@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_a_copied_error_has_its_attributes(
    error: errors.HermesError, how: Callable[[Any], Any]
) -> None:
    """Its type, text, attributes and notes."""
    error.add_note("a note")

    assert attributes(how(error)) == attributes(error)


def test_a_worker_process_raises_every_error() -> None:
    """An exception of a task reaches its caller with its attributes, and the pool goes on."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for error in every_error():
            program = f"import pickle; raise pickle.loads({pickle.dumps(error)!r})"
            found = pool.submit(exec, program).exception(timeout=WAIT_S)

            assert isinstance(found, errors.HermesError)
            assert attributes(found)[:3] == attributes(error)[:3]
            assert {k: v for k, v in vars(found).items() if k != "__notes__"} == vars(error)


def test_a_worker_process_gets_messages(client: hermes.Client) -> None:
    """A message goes to a process and back."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(copy.copy, MESSAGE).result(timeout=WAIT_S) == MESSAGE


@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES.keys())
def test_what_belongs_to_a_process_refuses_to_leave_it(
    client: hermes.Client, broker: hermes.Broker, how: Callable[[Any], Any]
) -> None:
    """The error says what to pass instead, and nothing ends."""
    with client.publisher("md.a") as publisher, client.subscribe("md.a") as subscription:
        for owner in (client, publisher, subscription, broker):
            with pytest.raises(TypeError, match=r"cannot be pickled or copied: .*there"):
                how(owner)
        publisher.send(b"x")

        assert subscription.receive(timeout=WAIT_S).payload == b"x"


def test_a_lost_connection_is_a_connection_error() -> None:
    """Libraries that try again on ConnectionError do so for ours."""
    assert issubclass(hermes.ConnectionLost, ConnectionError)
    assert issubclass(hermes.ConnectFailed, ConnectionError)
    with pytest.raises(ConnectionError):
        hermes.connect("tcp://127.0.0.1:1", timeout=WAIT_S)


def test_a_timeout_states_what_was_taken(wire: Any) -> None:
    """``taken``, ``sequence`` and ``queued`` of a publisher that the broker does not answer."""
    with hermes.connect(wire.url) as client:
        publisher = client.publisher("md.a", window=1 << 16)
        publisher.flush(timeout=WAIT_S)
        wire.hold("down")
        sent = publisher.send_many([b"x" * 1000] * 50)
        with pytest.raises(hermes.Timeout) as many:
            publisher.send_many([b"x" * 1000] * 100, timeout=0.01)
        with pytest.raises(hermes.Timeout) as one:
            publisher.send(b"x" * 1000, timeout=0.01)
        with pytest.raises(hermes.Timeout) as flushed:
            publisher.flush(timeout=0.01)
        wire.let_go()

    assert 0 < many.value.taken < 100
    assert many.value.sequence == sent + many.value.taken == many.value.queued
    assert (one.value.taken, one.value.sequence) == (False, None)
    assert one.value.queued == flushed.value.queued == many.value.queued
