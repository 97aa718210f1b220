"""What ``uring+tcp://`` and ``tcp+auto://`` add to what all stream-socket transports do alike."""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

import hermes
from hermes.errors import InvalidUrl, PluginFailed, SystemFault
from hermes.net.sockets import SocketAgent
from hermes.plugins.discovery import default_plugins
from hermes.spi.transport import Medium, Peer
from hermes.spi.url import parse_url
from hermes.wire import messages as m
from hermes_uring import agent as engine
from hermes_uring import probe
from hermes_uring.agent import RingAgent
from tests.broker.rawclient import RawClient
from tests.transports.uring import needs_uring

pytestmark = pytest.mark.slow

Drive = Callable[[Any, Callable[[], object]], None]
URL = "uring+tcp://127.0.0.1:0"
CYCLES = 10_000
TIMEOUT_S = 60.0


def listen(url: str, kernel: Any) -> Any:
    """An agent at ``url``."""
    parsed = parse_url(url)
    return default_plugins().transport(parsed.scheme).listen(parsed, kernel)


def connect(agent: Any) -> socket.socket:
    """A plain client of the agent."""
    port = parse_url(agent.url).port
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Read ``size`` bytes."""
    got = bytearray()
    while len(got) < size:
        chunk = sock.recv(1 << 20)
        assert chunk, f"the end came after {len(got)} of {size} bytes"
        got += chunk
    return bytes(got)


@pytest.fixture
def agent(kernel: Any) -> Iterator[RingAgent]:
    """An agent over a ring."""
    with closing(listen(URL, kernel)) as listening:
        yield listening


# Whether it works here.


@needs_uring
def test_a_listener_without_descriptors_says_so(
    kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the process has no descriptor left for a ring, listening fails as the contract says."""

    def refuse(**options: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("hermes_uring.engine.make_ring", refuse)

    with pytest.raises(SystemFault, match="ulimit -n"):
        listen(URL, kernel)


def test_a_missing_package_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without liburing the probe says how to install it, and so does the plugin's failure."""
    monkeypatch.setitem(sys.modules, "liburing", None)
    monkeypatch.setitem(sys.modules, "liburing.liburing", None)

    obstacle = probe.obstacle()

    assert obstacle is not None
    assert "pip install 'hermes-broker[uring]'" in obstacle
    with pytest.raises(PluginFailed, match=r"hermes-broker\[uring\]"):
        default_plugins().transport("uring+tcp")


@pytest.mark.parametrize(
    ("code", "setting", "says"),
    [
        (errno.EPERM, "2", "kernel.io_uring_disabled = 2"),
        (errno.EPERM, "0", "seccomp"),
        (errno.ENOSYS, "0", "has no io_uring"),
        (errno.EINVAL, "0", "Linux 6.12"),
        (errno.ENOMEM, "0", "ulimit"),
        (errno.EIO, "0", "Input/output"),
    ],
)
def test_a_refusal_is_explained_by_its_cause(
    code: int, setting: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each way the kernel can refuse has a sentence that says what to do."""

    def refuse(**_: int) -> None:
        raise OSError(code, os.strerror(code))

    file = tmp_path / "io_uring_disabled"
    file.write_text(f"{setting}\n")
    monkeypatch.setattr(probe, "DISABLED", file)
    monkeypatch.setattr(probe, "make_ring", refuse)

    assert says in str(probe.obstacle())


@needs_uring
def test_a_library_without_liburing_is_refused() -> None:
    """A binding that does not export liburing's functions is an ImportError that names one."""
    from hermes_uring import _ring

    with pytest.raises(ImportError, match="io_uring_"):
        _ring.Ring(_ring.__file__, 8, 2, 4096)


def test_auto_serves_without_io_uring_and_says_so_once(
    kernel: Any, drive: Drive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """tcp+auto falls back to epoll with one log line that has the reason, and works."""
    monkeypatch.setattr("hermes_uring.engine.obstacle", lambda: "forbidden here")

    with (
        caplog.at_level(logging.INFO, "hermes.uring"),
        closing(listen("tcp+auto://127.0.0.1:0?queue=64", kernel)) as agent,
        closing(connect(agent)) as client,
    ):
        client.sendall(b"hello")
        drive(agent, lambda: kernel.connections and kernel.connections[0].received == 5)

        assert isinstance(agent, SocketAgent)
        assert agent.url.startswith("tcp+auto://127.0.0.1:")
        assert client.recv(5) == b"hello"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "forbidden here" in caplog.text


@needs_uring
def test_auto_takes_io_uring_where_it_works(kernel: Any) -> None:
    """tcp+auto is uring+tcp under another name wherever that works."""
    with closing(listen("tcp+auto://127.0.0.1:0", kernel)) as agent:
        assert isinstance(agent, RingAgent)


# What the URL may say.


@needs_uring
def test_options_are_those_of_tcp_and_two_more(kernel: Any) -> None:
    """What tcp takes is taken, what it refuses is refused, and the ring's own are checked."""
    for query in ("nodelay=no&keepalive=0", "queue=2", "queue=1000&buffers=1MiB"):
        listen(f"{URL}?{query}", kernel).close()
    for query in ("queue=1", "queue=65536", "buffers=many", "connections=0", "nodelya=no"):
        with pytest.raises(InvalidUrl):
            listen(f"{URL}?{query}", kernel)
    with pytest.raises(InvalidUrl, match="insecure=yes"):
        listen("uring+tcp://0.0.0.0:0", kernel)


@needs_uring
@pytest.mark.parametrize(("server", "client"), [("uring+tcp", "tcp"), ("tcp", "uring+tcp")])
def test_both_schemes_speak_to_each_other(
    server: str, client: str, kernel: Any, drive: Drive
) -> None:
    """A client of tcp:// reaches a uring+tcp:// listener, and the other way round."""
    with closing(listen(f"{server}://127.0.0.1:0", kernel)) as agent:
        url = parse_url(agent.url.replace(server, client))
        channel = default_plugins().transport(client).dial(url, 5_000_000_000)
        with closing(channel):
            channel.send([b"over"])
            drive(agent, lambda: kernel.connections and kernel.connections[0].received == 4)

        assert kernel.connections[0].peer.transport == server


# What is under way ends, and nothing stays.


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@needs_uring
def test_ten_thousand_connections_leave_nothing_behind(
    agent: RingAgent, kernel: Any, drive: Drive
) -> None:
    """After 10,000 connects and closes there are as many descriptors, operations and objects as
    before."""
    counters: dict[str, int] = {}

    def cycle(count: int) -> None:
        for _ in range(count):
            client = connect(agent)
            drive(agent, lambda: kernel.connections)
            client.sendall(b"x")
            drive(agent, lambda: kernel.connections[0].received)
            client.close()
            drive(agent, lambda: kernel.connections[0].lost)
            kernel.connections.clear()
            kernel.woken.clear()
        drive(agent, lambda: agent._ring.operations == 1)  # the accept
        gc.collect()
        counters.update(descriptors=descriptors(), objects=len(gc.get_objects()))

    cycle(100)
    before = dict(counters)
    cycle(CYCLES)

    assert agent.counters()["accepted"] == CYCLES + 100
    assert agent.counters()["connections"] == 0
    assert counters["descriptors"] == before["descriptors"]
    assert counters["objects"] < before["objects"] + 100


@needs_uring
def test_closing_ends_everything_under_way(kernel: Any, drive: Drive) -> None:
    """An agent closed with armed receives, a stalled send and an accept lets go of all of it."""
    before = descriptors()
    agent = listen(URL, kernel)
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(closing(connect(agent)))
        drive(agent, lambda: len(kernel.connections) == 10)
        kernel.connections[3].send(bytes(32 << 20))
        drive(agent, lambda: agent.counters()["stalls"])

        agent.close()

        assert agent._ring.operations == 0
        assert all(connection.lost == [None] for connection in kernel.connections)
    assert descriptors() == before


@needs_uring
def test_closing_from_another_thread_frees_everything(kernel: Any, drive: Drive) -> None:
    """A ring belongs to the thread that polls; an agent may be closed by another afterwards."""
    before = descriptors()
    agent = listen(URL, kernel)
    with closing(connect(agent)):
        poller = threading.Thread(target=drive, args=(agent, lambda: kernel.connections))
        poller.start()
        poller.join()

        agent.close()

        assert agent._ring.operations == 0
    assert descriptors() == before


VICTIM = """
import socket, sys
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.recv(1)
print("reading", flush=True)
sys.stdin.read()
"""


@needs_uring
def test_a_client_killed_during_a_large_send_harms_nobody(
    agent: RingAgent, kernel: Any, drive: Drive
) -> None:
    """SIGKILL of a client that is being sent 64 MiB ends its connection, and only its."""
    kernel.echo = False
    port = str(parse_url(agent.url).port)
    with (
        closing(connect(agent)) as other,
        subprocess.Popen(
            [sys.executable, "-c", VICTIM, port], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as victim,
    ):
        drive(agent, lambda: len(kernel.connections) == 2)
        ours, theirs = kernel.connections
        theirs.send(bytes(64 << 20))
        drive(agent, lambda: agent.counters()["stalls"])
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"reading\n"
        theirs.mark()  # more to come, as far as the agent knows

        victim.send_signal(signal.SIGKILL)

        drive(agent, lambda: theirs.lost)
        assert isinstance(theirs.lost[0], OSError)
        assert theirs.in_flight == 0
        assert len(theirs.lost) == 1
        ours.send(b"still here")
        drive(agent, lambda: not ours.pending)
        assert other.recv(10) == b"still here"
        drive(agent, lambda: agent._ring.operations == 2)  # the accept, the other's receive


@needs_uring
def test_input_beyond_all_buffers_arrives_whole(kernel: Any, drive: Drive) -> None:
    """Eight peers that send more than the ring has buffers for lose nothing and mix nothing up."""
    data = [os.urandom(1 << 20) for _ in range(8)]
    got: dict[object, bytearray] = {}
    with closing(listen(f"{URL}?buffers=512KiB", kernel)) as agent, ExitStack() as stack:
        clients = [stack.enter_context(closing(connect(agent))) for _ in data]
        drive(agent, lambda: len(kernel.connections) == len(data))
        kernel.echo = False
        for connection in kernel.connections:
            got[connection] = bytearray()
            agent_link = connection.attachment
            agent_link.take = lambda view, into=got[connection]: into.extend(view)
        senders = [
            threading.Thread(target=client.sendall, args=(piece,))
            for client, piece in zip(clients, data, strict=True)
        ]
        for sender in senders:
            sender.start()

        drive(agent, lambda: sum(map(len, got.values())) == 8 << 20)

        for sender in senders:
            sender.join()
    assert sorted(map(bytes, got.values())) == sorted(data)


# Serving directly.


class Runs:
    """A connection's serve, counted; does nothing unless told to."""

    def __init__(self, result: int) -> None:
        self.result = result
        self.calls = 0

    def __call__(self, medium: Medium, watch_fd: int) -> int:
        self.calls += 1
        if self.result > 0:
            os.read(medium.fd, 1)
        return self.result


@needs_uring
def test_a_lonely_connection_is_served_directly(
    agent: RingAgent, kernel: Any, drive: Drive
) -> None:
    """One message at a time, and nobody else: after a few the connection's serve is called."""
    with closing(connect(agent)) as client:
        drive(agent, lambda: kernel.connections)
        serve = kernel.connections[0].attachment.serve = Runs(1)
        for _ in range(engine.LONELY):
            client.sendall(b"x")
            assert drive_until_echo(agent, client, drive) == b"x"
        drive(
            agent,
            lambda: (
                kernel.connections[0].attachment.direct and kernel.connections[0].attachment.input
            ),
        )

        client.sendall(b"x")
        drive(agent, lambda: serve.calls == 1)
        client.sendall(b"x")
        drive(agent, lambda: serve.calls == 2)


@needs_uring
@pytest.mark.parametrize("result", [0, -1])
def test_a_connection_that_cannot_be_served_directly_loses_nothing(
    result: int, agent: RingAgent, kernel: Any, drive: Drive
) -> None:
    """A serve that declines, or calls for bulk, leads back to receiving, with every byte."""
    with closing(connect(agent)) as client:
        drive(agent, lambda: kernel.connections)
        serve = kernel.connections[0].attachment.serve = Runs(result)
        for number in range(4 * engine.LONELY):
            client.sendall(b"%c" % number)
            assert drive_until_echo(agent, client, drive) == b"%c" % number

        assert serve.calls == 1


def drive_until_echo(agent: RingAgent, client: socket.socket, drive: Drive) -> bytes:
    """The next bytes that come back."""
    got = bytearray()
    client.setblocking(False)

    def arrived() -> bool:
        try:
            got.extend(client.recv(100))
        except BlockingIOError:
            return False
        return True

    drive(agent, arrived)
    return bytes(got)


# In a broker.


@needs_uring
@pytest.mark.parametrize("listeners", [[URL], [URL, "tcp://127.0.0.1:0"]])
@pytest.mark.parametrize("idle", ["block", "adaptive"])
def test_messages_pass_between_both_transports(listeners: list[str], idle: str) -> None:
    """In one broker, alone or beside tcp: what is published on one is received on every other."""
    with hermes.Broker(listeners=listeners, storage="memory:", idle=idle) as broker:
        urls = [listener.url for listener in broker.listeners]
        for publishing in urls:
            for subscribing in urls:
                with (
                    hermes.connect(publishing) as sender,
                    hermes.connect(subscribing) as receiver,
                    receiver.subscribe("t.>") as subscription,
                    sender.publisher("t.a") as publisher,
                ):
                    for number in range(100):
                        publisher.send(b"%d" % number)
                        assert next(iter(subscription)).payload == b"%d" % number
                    publisher.flush()


@needs_uring
def test_a_round_trip_alone_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client that waits for each message of its own is served by the native round."""
    with hermes.Broker(listeners=[URL], storage="memory:", idle="adaptive") as broker:
        with (
            hermes.connect(broker.listeners[0].url) as client,
            client.subscribe("t.a") as subscription,
            client.publisher("t.a") as publisher,
        ):
            messages = iter(subscription)
            for number in range(2000):
                publisher.send(b"%d" % number)
                assert next(messages).payload == b"%d" % number
            publisher.flush()
        rounds = broker._kernel.context.counters.served_rounds  # type: ignore[union-attr]

    assert rounds > 1000


def counter(broker: hermes.Broker, name: str) -> int:
    """A counter of the broker's only listener."""
    return int(broker.stats()["listeners"][0][name])


def subscribed(stack: ExitStack, url: str, count: int) -> list[RawClient]:
    """Clients that get everything."""
    clients = [stack.enter_context(closing(RawClient(url))) for _ in range(count)]
    for client in clients:
        client.subscribe(">")
    return clients


@needs_uring
@pytest.mark.parametrize("queue", [16, 1024])
def test_what_many_get_leaves_together(queue: int) -> None:
    """Eighty subscribers get every message, each by a send that left with others, also where the
    submission queue has room for sixteen."""
    url = f"{URL}?queue={queue}"
    with hermes.Broker(listeners=[url], storage="memory:", idle="block") as broker:
        with ExitStack() as stack:
            publisher = stack.enter_context(closing(RawClient(broker.url)))
            publisher.open()
            subscribers = subscribed(stack, broker.url, 80)
            calls, together = counter(broker, "submissions"), counter(broker, "sent_together")

            for number in range(50):
                publisher.acked(publisher.publish("a", b"%d" % number))
                for client in subscribers:
                    client.received(number + 1)

            payloads = [b"%d" % number for number in range(50)]
            assert all([x.payload for x in client.messages] == payloads for client in subscribers)
            together = counter(broker, "sent_together") - together
            calls = counter(broker, "submissions") - calls
        assert together > 0.9 * 80 * 50
        assert calls < together / (3 if queue == 16 else 10)


@needs_uring
@pytest.mark.parametrize("size", [1000, 100_000])
def test_peers_that_do_not_read_or_are_gone_harm_nobody(size: int) -> None:
    """Subscribers that do not read get everything later, and those that read get it now, while others
    vanish."""
    with (
        hermes.Broker(listeners=[URL], storage="memory:", idle="block") as broker,
        ExitStack() as stack,
    ):
        publisher = stack.enter_context(closing(RawClient(broker.url)))
        publisher.open()
        reading, idle, gone = (subscribed(stack, broker.url, 4) for _ in range(3))
        for client in idle:
            client.channel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 262144)
        rounds = 6_000_000 // size
        for number in range(rounds):
            publisher.acked(publisher.publish("a", b"%d" % number + bytes(size)))
            if number % 10 == 0:
                for client in reading:
                    client.received(number + 1)
                if gone:
                    gone.pop().close()

        for client in reading + idle:
            client.received(rounds)
            assert [x.sequence for x in client.messages] == list(range(1, rounds + 1))
            assert client.messages[-1].payload == b"%d" % (rounds - 1) + bytes(size)
        assert counter(broker, "stalls") > 0
        assert counter(broker, "faults") == 0


@needs_uring
def test_a_peer_is_named_by_its_scheme(agent: RingAgent, kernel: Any, drive: Drive) -> None:
    """The broker is told the scheme and the address of who connects."""
    with closing(connect(agent)) as client:
        drive(agent, lambda: kernel.connections)
        host, port = client.getsockname()

    assert kernel.connections[0].peer == Peer(
        transport="uring+tcp", address=f"{host}:{port}", local=False
    )


@needs_uring
def test_output_cut_short_by_the_broker_is_pulled_again() -> None:
    """Answers come one page a flush, batches at most some hundred pieces a flush: all of them come,
    although the agent asks again only when the kernel says so."""
    with hermes.Broker(listeners=[URL], storage="memory:", idle="block") as broker:
        client = RawClient(broker.listeners[0].url)
        with closing(client):
            client.send(b"".join(client.protocol.query(n + 1, "stats") for n in range(10)))
            for number in range(1, 11):
                client.expect(m.Info, lambda info, n=number: info.query == n and not info.more)
            client.open()
            for number in range(1, 401):
                client.subscribe(f"t.{number}", number)
            client.send(b"".join(client.batch(f"t.{number}", [b"x"]) for number in range(1, 401)))

            assert len(client.received(400)) == 400
