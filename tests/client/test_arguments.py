"""Every argument of every public call, with values of every kind: each is taken with the documented
meaning, or refused by an error that names it; either way all else on the same client goes on.

The calls and their parameters are found by inspection: one without an entry here fails a test.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import hermes
from hermes import errors
from tests.pool import POOL

HANGS_S = 60.0
"""Seconds after which a call is said to hang."""

INTEGERS = {"0", "1", "2**20", "2**40 + 1", "int64", "0-D"}
BIG_INTEGERS = {"2**63", "uint64"}
TIMES = {
    *INTEGERS,
    *BIG_INTEGERS,
    *("-1", "2**64", "10**400", "-10**400", "10**5000", "0.0", "0.25", "-0.25", "1e12", "inf"),
    *("-inf", "Decimal", "Fraction", "int64 -1", "float32", "float64", "0-D"),
}
"""Every real number is a time."""
TEXTS = {"''", "'a'", "'1ms'", "'x' * 129", "'x' * 5000", "NUL", "'a..b'", "'a.*'", "'a*'"} | {
    "'a.>.b'",
    "'md.#'",
    "'md/+/x'",
    "numpy str",
}
NAMES = TEXTS - {"''", "'x' * 129", "'x' * 5000"}
TOPICS = {"'a'", "'1ms'", "'x' * 129", "numpy str"}
PATTERNS = {*TOPICS, "'a.*'"}
BYTES = {"b''", "b'a'", "16 bytes", "bytearray", "memoryview"}
ARRAYS = {"doubles", "2-D", "not contiguous", "Fortran's order", "empty array", "bools"} | {
    "complex",
    "records",
    "ctypes ints",
}
SCALARS = {
    "numpy False",
    "int64",
    "int64 -1",
    "uint64",
    "float32",
    "float64",
    "float64 nan",
    "numpy True",
    "0-D",
} | {"datetime64"}
"""NumPy's scalars are buffers of their bytes."""
BUFFERS = {*BYTES, *ARRAYS, *SCALARS, "3-D"}
POSITIONS = {"{}", "{'default': 1}", "{'default': int64}"}
ANYTHING = set(POOL)


class Stage:
    """A client with what a case uses, and a publisher and a subscription that must not notice."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = hermes.connect(url, timeout=HANGS_S)
        self.publisher = self.client.publisher("case")
        self.publisher.send(b"the first")
        self.subscription = self.client.subscribe("case", start="earliest", durable="case")
        self.neighbour = self.client.publisher("neighbour")
        self.listener = self.client.subscribe("neighbour")
        self._numbers = itertools.count()

    def check(self) -> None:
        """The neighbours go on, and nothing has ended the client."""
        payload = b"%d" % next(self._numbers)
        self.neighbour.send(payload)

        assert self.listener.receive(timeout=HANGS_S).payload == payload
        assert not self.client.closed


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One for all cases: what a case does to it would be noticed."""
    with hermes.Broker(listeners=["inproc:"], storage="memory:?limit=64MiB") as broker:
        made = Stage(broker.url)
        yield made
        made.client.close(timeout=5)


def _closing(made: Any) -> None:
    made.close()


def _publisher(stage: Stage, **arguments: Any) -> None:
    stage.client.publisher(**arguments).close(timeout=HANGS_S)


def _connect(stage: Stage, **arguments: Any) -> None:
    hermes.connect(**{"url": stage.url, **arguments}).close()


def _receive(stage: Stage, timeout: Any) -> None:
    stage.publisher.send(b"for receive")
    stage.publisher.flush(HANGS_S)
    with stage.client.subscribe("case", start="earliest") as subscription:
        subscription.receive(timeout=timeout)


def _iterate(name: str) -> Callable[..., None]:
    def call(stage: Stage, timeout: Any) -> None:
        with stage.client.subscribe("case", start="earliest") as subscription:
            made = getattr(subscription, name)(timeout=timeout)  # refused here, not at next()
            next(made)

    return call


def _client_close(stage: Stage, timeout: Any) -> None:
    client = hermes.connect(stage.url)
    try:
        client.close(timeout)
    finally:
        client.close()


def _publisher_close(stage: Stage, timeout: Any) -> None:
    publisher = stage.client.publisher("case")
    try:
        publisher.close(timeout)
    finally:
        publisher.close()


def _set_timeout(stage: Stage, value: Any) -> None:
    before = stage.client.timeout
    try:
        stage.client.timeout = value
    finally:
        stage.client.timeout = before


def _register(name: str) -> Callable[..., None]:
    def call(stage: Stage, **arguments: Any) -> None:
        with getattr(hermes, name)(**arguments):
            pass

    return call


def _broker(stage: Stage, **settings: Any) -> None:
    hermes.Broker(**settings).close()


def _run(stage: Stage, signals: Any) -> None:
    other = hermes.Broker(listeners=["inproc:"], storage="memory")
    other.stop()
    try:
        other.run(signals=signals)
    finally:
        other.close()


def method(of: str, called: str, /, **defaults: Any) -> Callable[..., Any]:
    """A call of a method of something on the stage, with ``defaults`` for what a case leaves out."""

    def call(stage: Stage, **arguments: Any) -> Any:
        return getattr(getattr(stage, of), called)(**{**defaults, **arguments})

    return call


Entry = tuple[Callable[..., Any], dict[str, set[str]]]
"""How a case calls it, and per parameter the values of the pool that are taken."""

NONE = {"None"}
SCHEMES = {"'a'", "'a..b'", "numpy str"}
FACTORIES = {"a type", "a function"}
WINDOWS = {"2**20"}
ROWS = {*BYTES, *ARRAYS, "datetime64"}

ENTRIES: dict[str, Entry] = {
    "connect": (
        _connect,
        {
            # None and '' mean the default broker, a name alone a transport: none answers here.
            "url": {"None", "''", "'a'", "'x' * 129", "'x' * 5000", "'a..b'", "numpy str"},
            "timeout": TIMES | NONE,
            "name": (TEXTS | NONE) - {"'x' * 129", "'x' * 5000"},
            "reconnect": TIMES | NONE | {"True", "False", "numpy True", "numpy False"},
            "spin": TIMES | NONE,
            "queue_bytes": INTEGERS - {"0", "0-D"},
            "identity": NAMES | NONE,
            "credentials": {"None", "{}", "{'a': 'b'}"},
        },
    ),
    "Client.__init__": (
        lambda stage, connection: hermes.Client(connection),
        {"connection": set()},
    ),
    "Client.publisher": (
        _publisher,
        {
            "topic": TOPICS | NONE,
            "ack": set(),
            "linger": TIMES | NONE,
            "window": WINDOWS,
            "publisher_id": {"16 bytes", "bytearray", "memoryview", "None", "2-D", "ctypes ints"},
            "timeout": TIMES | NONE,
        },
    ),
    "Client.subscribe": (
        lambda stage, **arguments: _closing(
            stage.client.subscribe(**{"pattern": "other", **arguments})
        ),
        {
            "pattern": PATTERNS,
            "start": {"0", "1", "2**20", "2**40 + 1", "int64", "0-D", "a datetime", "Start"}
            | POSITIONS,
            "durable": NAMES | NONE,
            "on_gap": FACTORIES,
            "timeout": TIMES | NONE,
        },
    ),
    "Client.query": (
        lambda stage, **arguments: stage.client.query(
            **{"what": "topics", **arguments.pop("arguments_", {}), **arguments}
        ),
        {"what": NAMES, "timeout": TIMES | NONE, "stream": TEXTS - {"'x' * 5000"}},
    ),
    "Client.topics": (
        method("client", "topics"),
        {"pattern": PATTERNS | NONE, "stream": NAMES | NONE, "timeout": TIMES | NONE},
    ),
    "Client.forget_durable": (
        method("client", "forget_durable", name="never"),
        {"name": NAMES, "identity": NAMES | NONE | {"''"}, "timeout": TIMES | NONE},
    ),
    **{
        f"Client.{name}": (method("client", name), {"timeout": TIMES | NONE})
        for name in ("streams", "durables", "stats", "ping")
    },
    "Client.timeout": (_set_timeout, {"value": TIMES | NONE}),
    "Client.close": (_client_close, {"timeout": TIMES | NONE}),
    "Publisher.send": (
        method("publisher", "send", payload=b"x"),
        {
            "payload": BUFFERS,
            "topic": TOPICS | NONE,
            "timestamp_ns": INTEGERS,
            "timeout": TIMES | NONE,
        },
    ),
    "Publisher.send_many": (
        method("publisher", "send_many", payloads=[b"x"]),
        {
            "payloads": {"[]", "[b'a']", "(b'a', bytearray)", "a generator", "[array, array]"}
            | (ARRAYS - {"ctypes ints"})
            | {"3-D", "datetimes"},
            "topic": TOPICS | NONE,
            "timestamp_ns": INTEGERS,
            "timeout": TIMES | NONE,
        },
    ),
    "Publisher.send_many, joined": (
        method("publisher", "send_many", payloads=b"x"),
        {"lengths": {"[1]", "datetime64"}},
    ),
    "Publisher.send_frames": (
        method("publisher", "send_frames", frames=b""),
        {"frames": {"b''", "empty array"}, "timeout": TIMES | NONE},
    ),
    "Publisher.send_rows": (
        method("publisher", "send_rows", rows=np.zeros(2)),
        {
            "rows": ROWS,
            "topic": TOPICS | NONE,
            "timestamp_ns": INTEGERS,
            "timeout": TIMES | NONE,
        },
    ),
    "Publisher.flush": (method("publisher", "flush"), {"timeout": TIMES | NONE}),
    "Publisher.resend": (method("publisher", "resend"), {"timeout": TIMES | NONE}),
    "Publisher.close": (_publisher_close, {"timeout": TIMES | NONE}),
    "Subscription.receive": (_receive, {"timeout": TIMES | NONE}),
    "Subscription.messages": (_iterate("messages"), {"timeout": TIMES | NONE}),
    "Subscription.batches": (_iterate("batches"), {"timeout": TIMES | NONE}),
    "Subscription.commit": (
        method("subscription", "commit"),
        {"positions": POSITIONS | NONE, "timeout": TIMES | NONE},
    ),
    "Message.__new__": (
        lambda stage, **arguments: hermes.Message(**{"topic": "a", **arguments}),
        {
            "topic": TOPICS | {"'a*'", "'md.#'", "'md/+/x'"},
            "payload": BUFFERS,
            "stream": TEXTS,
            "sequence": INTEGERS | BIG_INTEGERS,
            "timestamp_ns": INTEGERS | BIG_INTEGERS,
        },
    ),
    "Start.__init__": (
        lambda stage, **arguments: hermes.Start(**arguments),
        {
            "at": set(),
            "sequence": INTEGERS,
            "time_ns": INTEGERS,
            "positions": POSITIONS | {"{'': 1}"},
            "otherwise": set(),
            "epochs": POSITIONS | {"{'': 1}"},
        },
    ),
    "Position.__init__": (
        lambda stage, **arguments: hermes.Position(**{"sequence": 1, **arguments}),
        {"sequence": INTEGERS, "epoch": INTEGERS},
    ),
    "register_transport": (
        lambda stage, **arguments: _register("register_transport")(
            stage, **{"scheme": "args", "factory": object, **arguments}
        ),
        {"scheme": SCHEMES, "factory": FACTORIES},
    ),
    "register_storage": (
        lambda stage, **arguments: _register("register_storage")(
            stage, **{"scheme": "args", "factory": object, **arguments}
        ),
        {"scheme": SCHEMES, "factory": FACTORIES},
    ),
    "register_plugin": (
        lambda stage, **arguments: _register("register_plugin")(
            stage, **{"name": "args", "factory": object, **arguments}
        ),
        {"name": SCHEMES, "factory": FACTORIES},
    ),
    "Broker.__init__": (
        _broker,
        {"config": NONE, "registry": NONE, "progress": NONE | FACTORIES},
    ),
    "Broker.run": (_run, {"signals": {"False", "numpy False"}}),
}
EXEMPT = {
    "Batch": "made by subscriptions; its calls have a table of their own",
    "Gap": "a record: whoever makes one fills it",
}


def public_calls() -> Iterator[tuple[str, list[str]]]:
    """Each public call and the names of its parameters."""
    for name in hermes.__all__:
        found = getattr(hermes, name)
        if name in EXEMPT or name.startswith("_") or not callable(found):
            continue
        if not inspect.isclass(found):
            yield name, parameters(found)
        elif not issubclass(found, BaseException):
            yield from calls_of(name, found)


def calls_of(name: str, kind: type) -> Iterator[tuple[str, list[str]]]:
    """The constructor, the methods and the properties that can be set."""
    maker = "__new__" if name == "Message" else "__init__"
    yield f"{name}.{maker}", parameters(kind)
    for attribute, member in inspect.getmembers(kind):
        if attribute.startswith("_"):
            continue
        if isinstance(member, property) and member.fset is not None:
            yield f"{name}.{attribute}", ["value"]
        elif inspect.isfunction(member):
            yield f"{name}.{attribute}", parameters(member)


def parameters(found: Any) -> list[str]:
    """The names of what it takes, but for ``self`` and names that are open."""
    return [
        name
        for name, one in inspect.signature(found).parameters.items()
        if name != "self" and one.kind is not one.VAR_KEYWORD and one.kind is not one.VAR_POSITIONAL
    ]


ALIASES = {"value": "timeout"}
"""Names of parameters in errors where they differ from those of calls."""
MADE_ELSEWHERE = ("Publisher.__init__", "Subscription.__init__")
"""Constructors that no program calls: ``client.publisher`` and ``client.subscribe`` do."""
CASES = [(call, parameter) for call, (_, table) in ENTRIES.items() for parameter in table]
EXTRA = {("Client.query", "stream"), ("Publisher.send_many, joined", "lengths")}
"""Cases that inspection does not find: names that are open, and another form of a call."""


def test_every_public_argument_has_an_entry() -> None:
    """A call or a parameter that is new has to say here what it takes."""
    found = {
        (call, parameter)
        for call, names in public_calls()
        if call not in MADE_ELSEWHERE
        for parameter in names
    }

    assert found - set(CASES) == {("Publisher.send_many", "lengths")}
    assert set(CASES) - found == EXTRA


def attempt(stage: Stage, call: Callable[..., Any], parameter: str, value: Any) -> str | None:
    """None: taken; else the error's text, which names the argument if it is the program's fault."""
    try:
        call(stage, **{parameter: value})
    except errors.UsageError as error:
        return f"{error}"
    except errors.MalformedInput as error:
        return f"frames are not sound: {error}"
    except hermes.HermesError:
        return None  # a time that passed, a name that nothing goes by: taken as it was meant
    return None


@pytest.mark.parametrize(("name", "parameter"), CASES, ids=lambda case: str(case))
def test_an_argument_is_taken_or_refused_by_name(name: str, parameter: str, stage: Stage) -> None:
    """Every value of the pool is taken or refused as the entry says, and disturbs nothing else."""
    call, table = ENTRIES[name]
    taken = table[parameter]
    wrong = []
    with ThreadPoolExecutor(1) as thread:
        for label, value in POOL.items():
            if label == "a generator":
                value = (b"a" for _ in range(2))
            answer = thread.submit(attempt, stage, call, parameter, value).result(HANGS_S)
            stage.check()
            if (answer is None) != (label in taken):
                wrong.append(f"{label}: {'taken' if answer is None else answer}")
            elif answer is not None and ALIASES.get(parameter, parameter) not in answer.lower():
                wrong.append(f"{label}: not named: {answer}")

    assert not wrong, "\n".join(wrong)
