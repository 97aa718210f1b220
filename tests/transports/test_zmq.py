"""The doors for ZeroMQ programs: what crosses, in which form, and who may come in."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import hermes
from hermes.broker.connection import Connection as BrokerConnection
from hermes.errors import ConnectFailed, HermesError, InvalidUrl, UsageError
from hermes.native.decoder import decode
from hermes.native.properties import decode_properties, encode_properties
from hermes.plugins.discovery import default_plugins
from hermes.spi.url import parse_url
from hermes.testing.kernel import EchoKernel

zmq = pytest.importorskip("zmq")
pytest.importorskip("zmq.auth")

from hermes_zmq import doors  # noqa: E402
from hermes_zmq import pump as pumps  # noqa: E402
from hermes_zmq.commands import keys  # noqa: E402
from hermes_zmq.curve import public_key, read_users, write_keys  # noqa: E402
from hermes_zmq.router import END, PARTS_MAX  # noqa: E402

pytestmark = pytest.mark.slow

TIMEOUT_MS = 60_000
"""For anything a test waits for: generous, because the machine may be busy."""
SHORT_MS = 300
RAW = "_zmq.raw"
PROBE, LAST_PROBE = b"probe", b"the last probe"
LISTENER = "zmq+tcp://127.0.0.1:0"


class Programs:
    """ZeroMQ sockets around a broker in this process."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.broker: Any = None
        self.made: list[Any] = []

    def socket(self, kind: int, door: str, **options: Any) -> Any:
        made = self.context.socket(kind)
        self.made.append(made)
        made.rcvtimeo = made.sndtimeo = TIMEOUT_MS
        made.linger = 0
        prefix = options.pop("prefix", b"")
        for name, value in options.items():
            setattr(made, name, value)
        if kind == zmq.SUB:
            made.subscribe(prefix)
        made.connect(self.doors[door])
        return made

    def close(self) -> None:
        for socket in self.made:
            socket.close(0)
        self.context.term()

    @property
    def doors(self) -> dict[str, str]:
        return dict(self.broker.listeners[0].doors)

    @property
    def counters(self) -> dict[str, int]:
        return {k: v for one in self.broker.stats()["listeners"] for k, v in one.items()}

    def until(self, condition: Any) -> None:
        deadline = time.monotonic() + TIMEOUT_MS / 1000
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come to hold"
            time.sleep(0.005)

    def pair(self, prefix: bytes = b"", **options: Any) -> tuple[Any, Any]:
        """A PUB and a SUB with a way between them that has been tried, and is empty."""
        publisher = self.socket(zmq.PUB, "pub", **options)
        subscriber = self.socket(zmq.SUB, "sub", prefix=prefix, **options)
        topic = prefix or b"probe"
        deadline = time.monotonic() + TIMEOUT_MS / 1000
        while not subscriber.poll(10):
            publisher.send_multipart([topic, PROBE])
            assert time.monotonic() < deadline, "nothing comes through"
        publisher.send_multipart([topic, LAST_PROBE])
        while subscriber.recv_multipart()[-1] != LAST_PROBE:
            pass
        return publisher, subscriber


@pytest.fixture
def programs() -> Iterator[Programs]:
    """Sockets, once :func:`serving` gave them a broker."""
    found = Programs(zmq.Context())
    try:
        yield found
    finally:
        found.close()


@contextlib.contextmanager
def serving(programs: Programs, listener: str = LISTENER, **settings: Any) -> Iterator[Any]:
    """A broker with a ZeroMQ listener and one for TCP."""
    listeners = [listener, "tcp://127.0.0.1:0"]
    chosen: dict[str, Any] = {"storage": "memory:", "idle": "block", **settings}
    with hermes.Broker(listeners=listeners, **chosen) as broker:
        programs.broker = broker
        yield broker


# What a message becomes.

MAPPED = [
    ([b"md.a", b"x"], "md.a", b"x"),
    ([b"md.a", b""], "md.a", b""),
    ([b"md.a", b"x", b"y", b""], "md.a", b"x"),
    ([b"md.a x y"], "md.a", b"x y"),
    ([b"md.a "], "md.a", b""),
    ([b"word"], RAW, b"word"),
    ([b""], RAW, b""),
    ([b"", b"x"], RAW, b"x"),
    ([b"a..b", b"x"], RAW, b"x"),
    ([b"\xff\xfe", b"x"], RAW, b"x"),
    ([b"a.>", b"x"], RAW, b"x"),
    ([b"*", b"x"], RAW, b"x"),
    ([b"t" * 255, b"x"], "t" * 255, b"x"),
    ([b"t" * 256, b"x"], RAW, b"x"),
    ([b"_zmq.raw", b"x"], RAW, b"x"),
    ([b"_zmq", b"x"], RAW, b"x"),
    ([b"_zmqs", b"x"], "_zmqs", b"x"),
    ([b"_zmq.raw x"], RAW, b"_zmq.raw x"),
    ([b"\x00bin ary"], RAW, b"\x00bin ary"),
    ([b"img", b"meta", b"p" * 70_000], "img", b"meta" + b"p" * 70_000),
    ([b"t" * 40_000, b"x"], RAW, b"t" * 40_000),
]


@pytest.mark.parametrize(("parts", "topic", "payload"), MAPPED)
def test_what_a_message_becomes(parts: list[bytes], topic: str, payload: bytes) -> None:
    """The table in docs/zeromq.md, edge by edge; and back it is what it was."""
    mapping = pumps.Map()

    frame = mapping.frame(parts, 1, 0)

    assert frame is not None
    _, name, body = decode(frame)[0]
    assert name == topic
    assert bytes(body) == payload
    assert mapping.parts(frame) == (parts, len(frame))


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=8), st.booleans())
def test_any_message_comes_back(parts: list[bytes], split: bool) -> None:
    """Frame for frame, whatever its parts are."""
    mapping = pumps.Map(split=split)
    frame = mapping.frame(parts, 1, 0)

    assert frame is not None
    assert mapping.parts(frame)[0] == parts


@given(st.lists(st.tuples(st.text(min_size=1, max_size=9), st.binary(max_size=50)), max_size=5))
def test_properties_come_back(headers: list[tuple[str, bytes]]) -> None:
    """A property block has one meaning."""
    assert decode_properties(encode_properties(headers, key=b"k")) == (b"k", headers)


@pytest.mark.parametrize(
    ("form", "expected"),
    [("multipart", [b"md.a", b"x"]), ("single", [b"md.a x"]), ("bare", [b"x"])],
)
def test_what_a_hermes_message_becomes(form: str, expected: list[bytes]) -> None:
    """A message without headers of ours has the form that the listener chose."""
    plain = pumps.Map(topic="md.a").frame([b"x"], 1, 0)

    assert plain is not None
    assert pumps.Map(form=form).parts(plain)[0] == expected


# What crosses.


@pytest.mark.parametrize("native", [True, False], ids=["C", "python"])
def test_frame_for_frame_through_a_broker(
    programs: Programs, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every form passes PUB -> Hermes -> SUB and PUSH -> Hermes -> PULL unharmed; where the loaded
    libzmq cannot be called from C, it is said once per door and works all the same."""
    if not native:
        monkeypatch.setattr(pumps, "library", lambda: None)
    with contextlib.ExitStack() as stack:
        if not native:
            stack.enter_context(pytest.warns(RuntimeWarning, match="moved one by one"))
        stack.enter_context(serving(programs))
        publisher, subscriber = programs.pair()
        source, worker = programs.socket(zmq.PUSH, "push"), programs.socket(zmq.PULL, "pull")
        for parts, _, _ in MAPPED:
            publisher.send_multipart(parts)
            assert subscriber.recv_multipart() == parts
        source.send_multipart([b"job", b"1"])
        while (item := worker.recv_multipart()) != [b"job", b"1"]:
            assert item[-1] in (PROBE, LAST_PROBE) or item in [parts for parts, _, _ in MAPPED]


PREFIXES = [
    (b"", ["md.a", "md.ab", "mdx", "ref.md.a"]),
    (b"md", ["md.a", "md.ab", "mdx"]),
    (b"md.", ["md.a", "md.ab"]),
    (b"md.a", ["md.a", "md.ab"]),
    (b"md.ab", ["md.ab"]),
    (b"MD", []),
]


@pytest.mark.parametrize(("prefix", "expected"), PREFIXES)
def test_prefixes_select_what_hermes_publishes(
    programs: Programs, prefix: bytes, expected: list[str]
) -> None:
    """A Hermes publisher's messages reach a SUB as [topic, payload], by ZeroMQ's prefixes."""
    names = ["md.a", "md.ab", "mdx", "ref.md.a"]
    with serving(programs) as broker:
        _, subscriber = programs.pair(prefix or b"")
        end = prefix or b"end"
        with hermes.connect(broker.listeners[1].url) as client, client.publisher() as publisher:
            for name in names:
                publisher.send(b"x", topic=name)
            publisher.send(b"end", topic=end.decode().rstrip(".") or "end")
            if not prefix.endswith(b"."):
                found = []
                while (parts := subscriber.recv_multipart())[1] != b"end":
                    found.append(parts[0].decode())
            else:
                publisher.send(b"end", topic="md.end")
                found = []
                while (parts := subscriber.recv_multipart())[1] != b"end":
                    found.append(parts[0].decode())

    assert found == expected


PATTERNS = [
    (">", ["a", "a.b", "a.b.c", RAW]),
    ("a.*", ["a.b"]),
    ("a.>", ["a.b", "a.b.c"]),
    ("*.b.*", ["a.b.c"]),
    ("_zmq.raw", [RAW]),
]


@pytest.mark.parametrize(("pattern", "expected"), PATTERNS)
def test_patterns_select_what_zeromq_publishes(
    programs: Programs, pattern: str, expected: list[str]
) -> None:
    """A PUB's messages reach Hermes subscribers by Hermes' patterns."""
    with serving(programs) as broker, hermes.connect(broker.listeners[1].url) as client:
        publisher, subscriber = programs.pair()
        subscription = client.subscribe(pattern)
        for name in (b"a", b"a.b", b"a.b.c", b"..."):
            publisher.send_multipart([name, b"x"])
            subscriber.recv_multipart()
        found = [subscription.receive(timeout=60).topic for _ in expected]

    assert found == expected


def test_a_door_replays_from_the_earliest(programs: Programs) -> None:
    """With from=earliest, and a pattern, the first subscriber gets what was there before it."""
    listener = LISTENER + "?from=earliest&pattern=md.>"
    with serving(programs, listener) as broker, hermes.connect(broker.listeners[1].url) as client:
        with client.publisher() as publisher:
            for number in range(500):
                publisher.send(b"%d" % number, topic="md.a" if number % 2 else "other")
        subscriber = programs.socket(zmq.SUB, "sub")
        found = [subscriber.recv_multipart() for _ in range(250)]

    assert found == [[b"md.a", b"%d" % number] for number in range(1, 500, 2)]


def test_a_blocked_door_holds_nobody_else(programs: Programs) -> None:
    """A subscriber that does not read holds its own door only: nothing is lost to it, and another
    door goes on."""
    count = 20_000
    with serving(programs, LISTENER + "?sub=0,0"):
        slow = programs.socket(zmq.SUB, "sub", rcvhwm=10)
        quick = programs.socket(zmq.SUB, "sub2")
        with hermes.connect(programs.broker.listeners[1].url) as client:
            with client.publisher("n") as out:
                while not (slow.poll(10) and quick.poll(10)):
                    out.send(b"first")
                for number in range(count):
                    out.send(b"%d" % number + bytes(500))
            found_quick = _numbered(quick, count)
        programs.until(lambda: programs.counters["sub_blocks"] > 0)
        found = _numbered(slow, count)

    assert found_quick == [b"%d" % number for number in range(count)]
    assert found == [b"%d" % number for number in range(count)]


class Refusing:
    """Ends the connection that brings a marked message, as often as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.times = times
        real = BrokerConnection.data_received

        def data_received(connection: BrokerConnection, data: memoryview) -> None:
            if b"precious" in bytes(data) and self.times:
                self.times -= 1
                connection.refuse("storage_failed", "the disk is gone")
            else:
                real(connection, data)

        monkeypatch.setattr(BrokerConnection, "data_received", data_received)
        monkeypatch.setattr(doors, "KNOCK_MIN_NS", 1_000_000)


def test_what_was_not_acknowledged_is_offered_again(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feed door whose connection the broker ends hands over what it held on the next one: once,
    and before what comes later."""
    sent = [b"precious %d" % i for i in range(5)] + [b"later %d" % i for i in range(3)]
    refusing = Refusing(monkeypatch, times=2)

    with serving(programs) as broker, hermes.connect(broker.urls[1]) as client:
        everything = client.subscribe("jobs.>", start="earliest")
        push = programs.socket(zmq.PUSH, "push")
        for payload in sent:
            push.send_multipart([b"jobs.a", payload])
        got = [everything.receive(TIMEOUT_MS / 1000).payload for _ in sent]
        counters = programs.counters

    assert got == sent
    assert refusing.times == 0
    assert counters["push_messages"] == len(sent)
    assert counters["push_turned_away"] == 2


def test_what_comes_between_two_looks_is_taken(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feed door without a connection finds a message that arrives just after it has looked for one:
    the descriptor does not tell of it again."""
    real, missed = doors.events, []

    def events(socket: Any) -> int:
        found = real(socket)
        if found & zmq.POLLIN and socket.type == zmq.PULL and not missed:
            missed.append(found)
            return found & ~zmq.POLLIN
        return found

    monkeypatch.setattr(doors, "events", events)
    with serving(programs) as broker, hermes.connect(broker.urls[1]) as client:
        everything = client.subscribe("jobs.>", start="earliest")
        programs.socket(zmq.PUSH, "push").send_multipart([b"jobs.a", b"one"])

        assert everything.receive(TIMEOUT_MS / 1000).payload == b"one"
    assert missed


@pytest.mark.parametrize(
    ("kind", "door", "listener"),
    [
        ("SUB", "sub", LISTENER),
        ("SUB", "sub", LISTENER + "?from=earliest"),
        ("PULL", "pull", LISTENER),
        ("PULL", "pull", LISTENER + "?durable=pullers"),
    ],
)
@pytest.mark.parametrize("way", ["refused", "defect"])
def test_a_serving_door_goes_on_where_its_connection_ended(
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    door: str,
    listener: str,
    way: str,
) -> None:
    """Whether the broker or an unexpected error ends the connection of a door that sends, what is
    published until it has another follows, in order, and what was sent before does not again."""
    breaking = [0]
    real = BrokerConnection.output

    def output(connection: BrokerConnection, size: int) -> Any:
        hello = connection._protocol.hello
        if breaking[0] and hello is not None and f"hermes_zmq {door}" in hello.client:
            breaking[0] -= 1
            if way == "defect":
                raise RuntimeError("on purpose")
            connection.refuse("storage_failed", "the disk is gone")
        return real(connection, size)

    monkeypatch.setattr(BrokerConnection, "output", output)
    monkeypatch.setattr(doors, "KNOCK_MIN_NS", 100_000_000)
    monkeypatch.setattr(doors, "BREAK_NS", 100_000_000)
    with (
        serving(programs, listener) as broker,
        hermes.connect(broker.urls[1]) as client,
        client.publisher("jobs") as out,
    ):
        out.send(b"before")
        reader = programs.socket(getattr(zmq, kind), door)
        if kind == "SUB" and listener == LISTENER:
            while not reader.poll(10):
                out.send(b"before")
        elif kind == "PULL":
            programs.until(lambda: programs.counters["pull_batches"] > 0)
            out.send(b"before")
        found = [reader.recv_multipart()[1]]
        while reader.poll(100):
            found.append(reader.recv_multipart()[1])
        breaking[0] = 1
        for number in range(100):
            out.send(b"%d" % number)
            out.flush()
        programs.until(lambda: not breaking[0])
        after = [reader.recv_multipart()[1] for _ in range(100)]
        again = reader.poll(50)

    assert set(found) == {b"before"}
    assert after == [b"%d" % number for number in range(100)]
    assert not again


@pytest.mark.parametrize("kind", ["PUSH", "PUB"])
def test_what_has_arrived_when_a_broker_stops_is_acknowledged(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, caplog: Any, tmp_path: Path, kind: str
) -> None:
    """A stopping broker publishes what a door has been sent before it says Close: it is in the log,
    and nothing is said to be lost."""
    real = doors.FeedDoor.poll
    held = threading.Event()

    def poll(door: Any) -> int:
        return 0 if held.is_set() and not door.stopping else real(door)

    monkeypatch.setattr(doors.FeedDoor, "poll", poll)
    with serving(programs, storage=f"mmap:{tmp_path}") as broker:
        feed = programs.socket(getattr(zmq, kind), kind.lower(), sndhwm=0)
        while broker.streams()[0]["messages"] == 0:
            feed.send_multipart([b"a", b"first"])
            time.sleep(0.01)
        held.set()
        for number in range(500):
            feed.send_multipart([b"a", b"%d" % number])
        feed.close(TIMEOUT_MS)
        programs.until(lambda: programs.counters[f"{kind.lower()}_lost_peers"] == 1)
    with (
        hermes.Broker(listeners=["inproc://again"], storage=f"mmap:{tmp_path}") as broker,
        hermes.connect(broker.url) as client,
    ):
        found = []
        for one in client.subscribe("a", start="earliest").messages():
            found += [one.payload] if one.payload != b"first" else []
            if one.payload == b"499":
                break
    assert found == [b"%d" % number for number in range(500)]
    assert "may be lost" not in caplog.text


def test_what_a_stopping_broker_does_not_take_is_told(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Messages that a feed door still holds when the broker stops are logged, with their number."""
    refusing = Refusing(monkeypatch, times=1_000_000)

    with serving(programs):
        push = programs.socket(zmq.PUSH, "push")
        push.send_multipart([b"jobs.a", b"precious"])
        programs.until(lambda: refusing.times < 1_000_000)

    assert "1 messages may be lost" in caplog.text


def _numbered(socket: Any, count: int) -> list[bytes]:
    """``count`` payloads behind the probes."""
    found: list[bytes] = []
    while len(found) < count:
        body = socket.recv_multipart()[1].rstrip(b"\0")
        if body != b"first":
            found.append(body)
    return found


def test_what_retention_took_is_counted(programs: Programs, caplog: Any) -> None:
    """A door that retention has passed by counts the gap and logs its sequences."""
    with serving(programs, segment="1MiB", retention="2MiB") as broker:
        with hermes.connect(broker.listeners[1].url) as client, client.publisher("n") as out:
            for _ in range(200):
                out.send(bytes(100_000))
        programs.socket(zmq.PULL, "pull").recv_multipart()
        programs.until(lambda: programs.counters["pull_gaps"] == 1)

        assert programs.counters["pull_gap_messages"] > 100
    assert "cannot be delivered (retention)" in caplog.text


def test_an_idle_listener_sleeps(programs: Programs) -> None:
    """With programs connected and a door blocked, nobody burns a processor."""
    with serving(programs):
        publisher, subscriber = programs.pair()
        before = resource.getrusage(resource.RUSAGE_SELF)
        time.sleep(0.5)  # the experiment: half a second in which nothing happens
        after = resource.getrusage(resource.RUSAGE_SELF)
        publisher.send_multipart([b"a", b"b"])

        assert subscriber.recv_multipart() == [b"a", b"b"]
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.2


def test_no_wake_is_missed(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single messages, each sent when the last has come back: none waits for a timer, because the
    broker has none that would come before the receiver's patience ends."""
    for name in ("PROGRESS_NS", "TRIM_NS", "GREETING_NS"):
        monkeypatch.setattr(f"hermes.broker.kernel.{name}", 10 * TIMEOUT_MS * 1_000_000)
    with serving(programs):
        publisher, subscriber = programs.pair()
        for number in range(2000):
            publisher.send_multipart([b"n", b"%d" % number])
            assert subscriber.recv_multipart()[1] == b"%d" % number


# Who means no good.


def test_hostile_input_at_every_door(programs: Programs) -> None:
    """Garbage, floods of parts and parts over the limit are dropped and counted, or their sender
    is hung up on; the doors go on."""
    listener = LISTENER + "?message_max=1MiB"
    with serving(programs, listener, limits={"message": 1 << 20}) as broker:
        publisher, subscriber = programs.pair()
        publisher.send_multipart([b"t", bytes((1 << 20) + 1)])
        publisher.send_multipart([b"p"] * (pumps.PARTS_MAX + 1))
        publisher.send_multipart([os.urandom(9) for _ in range(300)])
        programs.until(lambda: programs.counters["pub_crowded"] == 1)
        assert programs.counters["pub_oversized"] == 1
        assert len(subscriber.recv_multipart()) == 300
        programs.socket(zmq.PUSH, "push").send_multipart([b"t", bytes(3 << 20)])
        stranger = programs.socket(zmq.DEALER, "router")
        stranger.send_multipart([b"garbage", b"", b"more"])
        assert b"not_hermes" in stranger.recv()
        crowd = programs.socket(zmq.DEALER, "router")
        crowd.send_multipart([b"", *[b"more"] * PARTS_MAX])
        assert crowd.recv() == END
        programs.until(lambda: programs.counters["router_crowded"] == 1)
        upstream = programs.socket(zmq.XSUB, "sub")
        for junk in (b"\x02user", b"\x00never", b"\x01", b"", b"\x01" + bytes(300)):
            upstream.send(junk)
        publisher.send_multipart([b"still", b"here"])
        assert subscriber.recv_multipart() == [b"still", b"here"]
        with hermes.connect(broker.listeners[0].url) as client:
            assert client.ping() < 10


# Who may come in.


def test_strangers_are_not_listened_to_unless_asked_for() -> None:
    """An address other machines reach is refused without keys and a list of users."""
    transport = default_plugins().transport("zmq+tcp")
    with pytest.raises(InvalidUrl, match="insecure=yes"):
        transport.listen(parse_url("zmq+tcp://0.0.0.0:0"), EchoKernel())


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("pub=x", "not a port"),
        ("pull=1,2", "only sub takes several"),
        ("doors=pub,pub", "once at most"),
        ("doors=door", "each of pub"),
        ("pattern=a..b", "a..b"),
        ("work=*", r"\*"),
        ("users=list", "needs curve"),
        ("curve=/no/such/file", "hermes keys new"),
    ],
)
def test_what_makes_no_sense_is_refused(query: str, says: str) -> None:
    """A listener's options are checked before anything listens."""
    transport = default_plugins().transport("zmq+tcp")
    with pytest.raises(InvalidUrl, match=says):
        transport.listen(parse_url(f"{LISTENER}?{query}"), EchoKernel())


def make_keys(*names: Path) -> list[dict[str, bytes]]:
    """Pairs as `hermes keys new` writes them, with what ZeroMQ programs need of each."""
    found = []
    for name in names:
        done = CliRunner().invoke(keys, ["new", str(name)])
        assert done.exit_code == 0, done.output
        public, secret = zmq.auth.load_certificate(f"{name}.key")
        found.append({"curve_publickey": public, "curve_secretkey": secret})
    return found


@pytest.mark.parametrize("name", ["", ".", "..", "keys/", "keys/."])
def test_a_pair_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A text that names no file makes no hidden files of keys."""
    (tmp_path / "keys").mkdir()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UsageError, match="names no file"):
        write_keys(name)

    assert [path.name for path in tmp_path.rglob("*")] == ["keys"]


def test_a_full_disk_leaves_no_part_of_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pair that cannot be written leaves nothing behind."""

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)

    with pytest.raises(OSError, match="space"):
        write_keys(tmp_path / "name")

    assert not list(tmp_path.iterdir())


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    """The secret file has mode 0600 and is not overwritten; both are ZeroMQ's own format."""
    import zmq.auth

    (pair,) = make_keys(tmp_path / "server")

    assert (tmp_path / "server.key").stat().st_mode & 0o777 == 0o600
    assert zmq.auth.load_certificate(tmp_path / "server.pub") == (pair["curve_publickey"], None)
    again = CliRunner().invoke(keys, ["new", str(tmp_path / "server")])
    assert "already" in str(again.exception)


def test_curve_admits_by_user(programs: Programs, tmp_path: Path) -> None:
    """A listed key comes in and is known by its name; an unlisted one, a wrong server key and plain
    text do not; the same holds for Hermes clients."""
    import zmq.auth

    places = [tmp_path / name for name in ("server", "alice", "mallory")]
    server, alice, mallory = make_keys(*places)
    (tmp_path / "users").write_text(
        "# who may come in\nalice " + alice["curve_publickey"].decode() + "\n"
    )
    right = {"curve_serverkey": server["curve_publickey"]}
    listener = f"{LISTENER}?curve={tmp_path}/server.key&users={tmp_path}/users"
    with serving(programs, listener) as broker:
        url = broker.listeners[0].url
        publisher = programs.socket(zmq.PUB, "pub", **alice, **right)
        subscriber = programs.socket(zmq.SUB, "sub", **alice, **right)
        while not subscriber.poll(10):
            publisher.send_multipart([b"secret", b"x"])
        assert subscriber.recv_multipart() == [b"secret", b"x"]

        wrong = {"curve_serverkey": mallory["curve_publickey"]}
        for options in ({**mallory, **right}, {**alice, **wrong}, {}):
            stranger = programs.socket(zmq.PUSH, "push", **options)
            with contextlib.suppress(zmq.Again):  # refused before it could send
                stranger.send(b"let me in", zmq.DONTWAIT)
        programs.until(lambda: programs.counters["keys_refused"] >= 1)
        programs.until(lambda: programs.counters["push_refused_peers"] >= 2)
        assert programs.counters["push_messages"] == 0

        key = f"curve={tmp_path}/alice.key&server={tmp_path}/server.pub"
        with hermes.connect(f"{url}&{key}") as client:
            assert client.ping() < 10
        for query in ("", f"&curve={tmp_path}/mallory.key&server={tmp_path}/server.pub"):
            with pytest.raises((ConnectFailed, HermesError)):
                hermes.connect(f"{url}{query}", timeout=2)


@pytest.mark.parametrize("text", ["alice", "alice short", "a b c"])
def test_a_list_of_users_is_read_with_care(tmp_path: Path, text: str) -> None:
    """A line that is none is named."""
    (tmp_path / "users").write_text(f"\n# fine\n{text}\n")

    with pytest.raises(InvalidUrl, match="line 3"):
        read_users(tmp_path / "users")


@pytest.mark.parametrize("cut", [b"%", b"&", b"#", b"?"])
def test_a_key_that_was_not_encoded_is_refused(cut: bytes) -> None:
    """The rest of a public key whose special characters stand in a URL as they are is refused,
    with what to do, and without the key."""
    key = b"a" * 21 + cut + b"b" * 18
    with pytest.raises(InvalidUrl, match="%25") as refusal:
        public_key(key.split(cut)[0].decode())
    with pytest.raises(InvalidUrl):
        public_key("\u00e9" * 40)

    assert "aaaa" not in str(refusal.value)
    assert public_key(key.decode()) == key
