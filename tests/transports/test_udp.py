"""Behaviour that udp adds to the contract: a real broker under loss, hostile datagrams, peers that vanish."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hermes
from hermes.errors import ConnectFailed, ConnectionLost, InvalidUrl
from hermes.spi.transport import Agent
from hermes.spi.url import parse_url
from hermes.testing.kernel import EchoKernel
from hermes_udp.engine import UdpTransport
from hermes_udp.native import ffi, lib

pytestmark = pytest.mark.slow

COUNT = 20_000
DEADLINE_S = 60.0
"""For anything a test waits for: generous, because the machine may be busy."""
SILENCE_S = 0.2
MARKER = 0x6D61726B


@pytest.fixture
def broker() -> Iterator[hermes.Broker]:
    """A broker that listens with udp."""
    with hermes.Broker(listeners=["udp://127.0.0.1:0"], storage="memory:") as made:
        yield made


def counters(client: hermes.Client) -> dict[str, int]:
    """The listener's."""
    found: dict[str, int] = client.stats()["listeners"][0]
    return found


@pytest.mark.parametrize("drop", [0.0, 0.01, 0.1])
def test_native_rounds_and_bulk_under_loss(drop: float) -> None:
    """Round trips and bulk through a real broker arrive whole and in order, by every native way."""
    faults = f"?drop={drop}&seed=5"
    with (
        hermes.Broker(listeners=[f"udp://127.0.0.1:0{faults}"], storage="memory:") as broker,
        hermes.connect(broker.listeners[0].url + faults, timeout=DEADLINE_S, spin=0.01) as client,
        client.subscribe("a.>") as subscription,
        client.publisher("a.b") as publisher,
    ):
        for number in range(500):
            publisher.send(b"%d" % number)
            assert subscription.receive(DEADLINE_S).payload == b"%d" % number
        publisher.send_many([b"%d" % number for number in range(COUNT)])
        for number in range(COUNT):
            assert subscription.receive(DEADLINE_S).payload == b"%d" % number
        dropped = counters(client)["dropped"]

    assert (dropped > 0) == (drop > 0)


def test_a_publisher_may_linger(broker: hermes.Broker) -> None:
    """A native thread writes to the session what nobody else has written."""
    with (
        hermes.connect(broker.listeners[0].url) as client,
        client.subscribe("a") as subscription,
        client.publisher("a", linger=0.001) as publisher,
    ):
        for number in range(100):
            publisher.send(b"%d" % number)
        received = [bytes(subscription.receive(DEADLINE_S).payload) for _ in range(100)]

    assert received == [b"%d" % number for number in range(100)]


def test_durable_positions_and_wildcards(broker: hermes.Broker) -> None:
    """A subscription goes on where it has committed, as over any transport."""
    url = broker.listeners[0].url
    with hermes.connect(url) as client, client.publisher() as publisher:
        with client.subscribe("md.*.x", start="earliest", durable="d") as subscription:
            for number in range(4):
                publisher.send(b"%d" % number, topic=f"md.{number}.x")
            assert [bytes(subscription.receive(DEADLINE_S).payload) for _ in range(2)] == [
                b"0",
                b"1",
            ]
            subscription.commit()
        with client.subscribe("md.*.x", durable="d") as subscription:
            assert bytes(subscription.receive(DEADLINE_S).payload) == b"2"


def test_an_idle_client_repeats_what_was_lost() -> None:
    """A program that computes instead of calling in is tended by the native thread."""
    with (
        hermes.Broker(listeners=["udp://127.0.0.1:0"], storage="memory:") as broker,
        hermes.connect(broker.listeners[0].url) as listener,
        listener.subscribe("a") as subscription,
        hermes.connect(broker.listeners[0].url + "?drop=0.5&seed=11") as client,
        client.publisher("a", ack="none") as publisher,
    ):
        for number in range(20):
            publisher.send(b"%d" % number)
        received = [bytes(subscription.receive(DEADLINE_S).payload) for _ in range(20)]

    assert received == [b"%d" % number for number in range(20)]


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def await_descriptors(count: int) -> None:
    """Wait until as few are open."""
    deadline = time.monotonic() + DEADLINE_S
    while descriptors() > count:
        assert time.monotonic() < deadline, f"{descriptors()} descriptors, not {count}"
        time.sleep(0.01)


def test_closed_channels_leave_nothing(broker: hermes.Broker) -> None:
    """Memory of a closed session is given back without another being closed or set up."""
    url = broker.listeners[0].url
    with hermes.connect(url):
        pass
    deadline = time.monotonic() + DEADLINE_S
    while any(thread.name == "hermes-udp-closing" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = descriptors()

    clients = [hermes.connect(url) for _ in range(8)]
    for client in clients:
        client.close()

    await_descriptors(before)


def silent_socket() -> socket.socket:
    """One that a client may dial, and gets no answer."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(DEADLINE_S)
    return sock


def test_a_broker_that_vanishes_is_named() -> None:
    """A client that dials where nobody answers, or is answered no more, is told which address it was."""
    with silent_socket() as silent:
        port = silent.getsockname()[1]

        with pytest.raises(ConnectFailed, match=rf"127\.0\.0\.1:{port}.*did not answer"):
            hermes.connect(f"udp://127.0.0.1:{port}", timeout=0.3)


DIALS = """
import os, sys, time
import hermes
def left():
    return [len(os.listdir(f"/proc/self/{what}")) for what in ("fd", "task")]
def more():  # a thread that was joined is listed for a moment, before as well
    return any(now > then for now, then in zip(left(), before))
try:
    hermes.connect(sys.argv[2], timeout=0.01)
except hermes.errors.ConnectFailed:
    before = left()
try:
    hermes.connect(sys.argv[1], timeout=60)
except KeyboardInterrupt:
    end = time.monotonic() + 20
    while more() and time.monotonic() < end:
        time.sleep(0.001)
    print((before, left()) if more() else "nothing is left")
"""


@pytest.mark.parametrize("faults", ["drop=0", "intercept=loss=1%25,seed=1"])
def test_a_dial_is_interrupted(faults: str) -> None:
    """Ctrl-C ends a dial that nobody answers at once, and leaves no descriptor and no thread."""
    with silent_socket() as silent, silent_socket() as before:
        urls = [f"udp://127.0.0.1:{end.getsockname()[1]}?{faults}" for end in (silent, before)]
        with subprocess.Popen(
            [sys.executable, "-c", DIALS, *urls], stdout=subprocess.PIPE, text=True
        ) as child:
            silent.recv(65536)

            child.send_signal(signal.SIGINT)
            said, _ = child.communicate(timeout=DEADLINE_S)

    assert said == "nothing is left\n"


FORKED = """
import os, sys
import hermes, hermes_udp.channel
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
client = hermes.connect(sys.argv[1])
client.close()
hermes_udp.channel.LINGERING.wait()
print("closed", flush=True)
sys.stdin.read()
os._exit(0)
"""


def test_a_forked_child_ends_what_it_has_dialled(broker: hermes.Broker) -> None:
    """A session that a child of ``fork`` dials and closes is over while the child lives on."""
    with (
        hermes.connect(broker.listeners[0].url) as client,
        subprocess.Popen(
            [sys.executable, "-c", FORKED, broker.listeners[0].url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child,
    ):
        assert child.stdout is not None
        said = child.stdout.readline()
        deadline = time.monotonic() + DEADLINE_S
        left = counters(client)["connections"]
        while left > 1 and time.monotonic() < deadline:
            left = counters(client)["connections"]
        child.communicate()

    assert said
    assert left == 1


def test_a_listener_others_reach_is_refused() -> None:
    """Without authentication only loopback, or by name."""
    with pytest.raises(InvalidUrl, match="insecure"):
        hermes.Broker(listeners=["udp://0.0.0.0:0"], storage="memory:").start()


def _datagram(kind: int, session: int, body: bytes = b"", **fields: int) -> bytes:
    header = ffi.new("hu_header *", {"type": kind, "session": session, "stamp": 1, **fields})
    out = ffi.new("uint8_t[]", lib.HU_HEADER)
    lib.hu_header_encode(out, header)
    size = lib.HU_HEADER + len(body)
    whole = ffi.new("uint8_t[]", size)
    ffi.memmove(whole, bytes(ffi.buffer(out)) + body, size)
    lib.hu_seal(whole, size)
    return bytes(ffi.buffer(whole))


def _answers(sock: socket.socket) -> list[bytes]:
    """Answers to everything that was sent so far: what comes before the answer to one
    request more."""
    sock.send(_datagram(lib.HU_REQUEST, MARKER, bytes(lib.HU_SETUP)))
    found = []
    sock.settimeout(DEADLINE_S)
    while _session_field(answer := sock.recv(65536)) != MARKER:
        found.append(answer)
    return found


def _waiting(sock: socket.socket) -> list[bytes]:
    """Datagrams that an agent which the test polls has sent there: over loopback it is there by then."""
    found = []
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(65536))
    return found


def _session_field(datagram: bytes) -> int:
    header = ffi.new("hu_header *")
    assert lib.hu_header_decode(datagram, len(datagram), header) == 0
    return int(header.session)


def _is_silent(sock: socket.socket) -> bool:
    """Whether nothing comes for a while that nobody asked for."""
    sock.settimeout(SILENCE_S)
    with contextlib.suppress(TimeoutError):
        return not sock.recv(65536)
    return True


@pytest.fixture
def stranger(broker: hermes.Broker) -> Iterator[socket.socket]:
    """A socket that speaks to the broker without a session."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", int(broker.listeners[0].url.rsplit(":", 1)[1])))
        yield sock


def test_no_answer_is_larger_than_its_question(
    broker: hermes.Broker, stranger: socket.socket
) -> None:
    """Before a session is proven the broker sends at most what it received, whatever that was."""
    chance = random.Random(1)
    body = bytes(lib.HU_SETUP)
    questions = [
        _datagram(kind, chance.getrandbits(64), body if kind >= lib.HU_REQUEST else b"")
        for kind in range(1, 9)
    ]
    questions += [_datagram(lib.HU_REQUEST, 5, bytes(1000)), chance.randbytes(500), b"HU", b""]
    for question in questions:
        stranger.send(question)
        answers = _answers(stranger)

        assert sum(map(len, answers)) <= len(question), question[:4]
    assert _is_silent(stranger), "nothing is answered twice"


def _confirm(stranger: socket.socket, nonce: int) -> bytes:
    stranger.send(_datagram(lib.HU_REQUEST, nonce, bytes(lib.HU_SETUP)))
    return _confirmation(_answers(stranger)[0], nonce)


def _confirmation(challenge: bytes, nonce: int) -> bytes:
    setup = ffi.new("hu_setup *")
    lib.hu_setup_decode(challenge[lib.HU_HEADER :], setup)
    setup.datagram, setup.window, setup.liveness_ms = 1408, 65536, 10_000
    out = ffi.new("uint8_t[]", lib.HU_SETUP)
    lib.hu_setup_encode(out, setup)
    return _datagram(lib.HU_CONFIRM, nonce, bytes(ffi.buffer(out)))


def test_set_ups_replayed_make_no_second_session(
    broker: hermes.Broker, stranger: socket.socket
) -> None:
    """A confirmation that comes again finds its session, and after its end none; one from another
    address is not believed."""
    with hermes.connect(broker.listeners[0].url) as client:
        confirm = _confirm(stranger, 99)
        before = counters(client)["connections"]
        stranger.send(confirm)
        stranger.send(confirm)
        accepts = _answers(stranger)
        during = counters(client)["connections"]
        session = _session(accepts[0])
        stranger.send(_datagram(lib.HU_RESET, session, window=lib.HU_BYE))
        stranger.send(confirm)
        replayed = _answers(stranger)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            thief.connect(stranger.getpeername())
            thief.send(confirm)
            thief.send(_datagram(lib.HU_STATUS, session))
            _answers(thief)
        after = counters(client)

    assert len(accepts) == 2
    assert accepts[0] == accepts[1]
    assert during == before + 1
    assert replayed == []
    assert (after["connections"], after["replayed"], after["bad_cookies"]) == (before, 1, 1)


def _session(accept: bytes) -> int:
    setup = ffi.new("hu_setup *")
    lib.hu_setup_decode(accept[lib.HU_HEADER :], setup)
    return int(setup.session)


def _joined(agent: Agent, peer: socket.socket, nonce: int) -> int:
    """The session that ``peer`` sets up."""
    peer.connect(("127.0.0.1", int(agent.url.rsplit(":", 1)[1])))
    peer.send(_datagram(lib.HU_REQUEST, nonce, bytes(lib.HU_SETUP)))
    agent.poll(-1)
    peer.send(_confirmation(peer.recv(65536), nonce))
    agent.poll(-1)
    return _session(peer.recv(65536))


@pytest.mark.parametrize("says_goodbye", [True, False])
@pytest.mark.parametrize("acknowledges", [True, False])
def test_a_last_word_that_nobody_acknowledged(
    monkeypatch: pytest.MonkeyPatch, kernel: EchoKernel, acknowledges: bool, says_goodbye: bool
) -> None:
    """A connection that was closed is lost with an error if its last output never arrived, and
    without one if it did."""
    monkeypatch.setattr("hermes_udp.agent.LINGER_NS", 20_000_000)
    agent = UdpTransport().listen(parse_url("udp://127.0.0.1:0"), kernel)
    with contextlib.closing(agent), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        session = _joined(agent, peer, 3)
        connection = kernel.connections[0]
        connection.send(b"farewell")
        connection.close()
        agent.poll(0)
        if acknowledges:
            peer.send(_datagram(lib.HU_STATUS, session, received=8, window=65536))
        if says_goodbye:
            peer.send(_datagram(lib.HU_RESET, session, window=lib.HU_BYE))

        while not connection.lost:
            agent.poll(-1)

    error = connection.lost[0]
    assert (error is None) == acknowledges
    if error is not None:
        assert isinstance(error, ConnectionLost)
        assert "last 8 bytes were never acknowledged" in str(error)


def test_a_session_that_ends_in_a_pass_is_not_written_to(
    monkeypatch: pytest.MonkeyPatch, kernel: EchoKernel
) -> None:
    """A connection that had output when its session was lost may still be among the ready ones: its
    slot is nobody's, or another's."""
    agent = UdpTransport().listen(parse_url("udp://127.0.0.1:0"), kernel)
    with contextlib.closing(agent), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        session = _joined(agent, peer, 3)
        connection = kernel.connections[0]
        peer.send(_datagram(lib.HU_RESET, session, window=lib.HU_BYE))
        while not connection.lost:
            agent.poll(-1)
        monkeypatch.setattr(kernel, "ready", lambda owner: [connection])

        agent.poll(0)  # which would abort the process

        assert agent.counters()["faults"] == 0


@pytest.mark.parametrize("acknowledges", [True, False])
def test_closing_a_listener_tells_what_was_under_way(
    kernel: EchoKernel, acknowledges: bool
) -> None:
    """A connection whose output the peer has not acknowledged is not told that it ended in order."""
    agent = UdpTransport().listen(parse_url("udp://127.0.0.1:0"), kernel)
    with contextlib.closing(agent), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        session = _joined(agent, peer, 3)
        connection = kernel.connections[0]
        connection.send(b"unheard")
        agent.poll(0)
        if acknowledges:
            peer.send(_datagram(lib.HU_STATUS, session, received=7, window=65536))
            agent.poll(-1)
        agent.close()

    (error,) = connection.lost
    assert (error is None) == acknowledges
    assert acknowledges or "last 7 bytes were never acknowledged" in str(error)


@pytest.mark.parametrize("received", [4, 5, (1 << 64) - 1], ids=["unread", "unsent", "no-position"])
def test_who_acknowledges_what_it_has_not_got_harms_itself(
    kernel: EchoKernel, received: int
) -> None:
    """The peer is not sent that again if it could have got it, is not believed if it could not; others
    get what is theirs, and later output of its own goes out either way."""
    agent = UdpTransport().listen(parse_url("udp://127.0.0.1:0"), kernel)
    with (
        contextlib.closing(agent),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        session = _joined(agent, liar, 3)
        _joined(agent, other, 4)
        theirs, others = kernel.connections
        theirs.send(b"gone")
        agent.poll(0)
        call = struct.pack("<QI", 0, 4)
        for _ in range(3):
            liar.send(_datagram(lib.HU_STATUS, session, call, received=received, window=65536))
        while agent.counters()["datagrams_in"] < 2 * 2 + 3:  # set-ups, and these
            agent.poll(-1)
        theirs.send(b"more")
        others.send(b"whole")
        agent.poll(0)
        got = {d[lib.HU_HEADER :] for d in _waiting(liar) if d[3] == lib.HU_DATA}
        whole = other.recv(65536)[lib.HU_HEADER :]
        counts = agent.counters()

    assert got == {b"gone", b"more"}
    assert whole == b"whole"
    assert counts["impossible"] + counts["malformed"] == (0 if received == 4 else 3)
    assert counts["out_repeats"] == 0
    assert counts["connections_lost"] == 0


def test_noise_harms_nobody(broker: hermes.Broker, stranger: socket.socket) -> None:
    """Thousands of senseless datagrams, and a real client goes on beside them."""
    chance = random.Random(2)
    with (
        hermes.connect(broker.listeners[0].url) as client,
        client.subscribe("a") as subscription,
        client.publisher("a") as publisher,
    ):
        for number in range(200):
            for _ in range(20):
                stranger.send(chance.randbytes(chance.randrange(200)))
                stranger.send(_datagram(chance.randrange(1, 3), chance.getrandbits(64)))
            publisher.send(b"%d" % number)
            assert subscription.receive(DEADLINE_S).payload == b"%d" % number
        seen = counters(client)

    assert seen["malformed"] > 1000
    assert seen["unknown_session"] > 1000


PROGRAM = """
import sys, hermes
with hermes.connect(sys.argv[1], timeout=20) as client, client.subscribe("a") as subscription:
    with client.publisher("a") as publisher:
        publisher.send_many([b"%d" % number for number in range(20_000)])
        for number in range(20_000):
            assert subscription.receive(60).payload == b"%d" % number
        print("whole")
"""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a cable; removed afterwards."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("NO REAL NETWORK TESTED: making one takes root and the command ip")
    names = f"hermes-a-{os.getpid()}", f"hermes-b-{os.getpid()}"
    try:
        for name in names:
            made = _run("ip", "netns", "add", name)
            if made.returncode:
                pytest.skip(f"NO REAL NETWORK TESTED: no namespaces here: {made.stderr.strip()}")
        cable = ("ip", "-n", names[0], "link", "add", "va", "type", "veth")
        made = _run(*cable, "peer", "name", "vb", "netns", names[1])
        if made.returncode:
            pytest.skip(f"NO REAL NETWORK TESTED: no veth here: {made.stderr.strip()}")
        for name, link, address in zip(names, ("va", "vb"), (1, 2), strict=True):
            assert not _run(
                "ip", "-n", name, "addr", "add", f"10.77.0.{address}/24", "dev", link
            ).returncode
            assert not _run("ip", "-n", name, "link", "set", link, "up").returncode
        yield names
    finally:
        for name in names:
            _run("ip", "netns", "delete", name)


@pytest.mark.parametrize("spec", ["loss=0%", "loss=5%25,reorder=2%25,duplicate=2%25,seed=3"])
def test_over_a_cable(two_hosts: tuple[str, str], tmp_path: Path, spec: str) -> None:
    """A client on another host of a real network gets everything, with and without loss."""
    here, there = two_hosts
    enter = ("ip", "netns", "exec")
    faults = "" if spec == "loss=0%" else f"&intercept={spec}"
    ready = tmp_path / "ready.json"
    listener = f"udp://10.77.0.1:7601?insecure=yes{faults}"
    serve = ("-m", "hermes", "serve", "--transport", listener, "--storage", "memory:")
    broker = subprocess.Popen(
        [*enter, here, sys.executable, *serve, "--ready-file", str(ready)],
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not ready.exists():
            assert broker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        url = f"udp://10.77.0.1:7601{faults.replace('&', '?', 1)}"

        done = _run(*enter, there, sys.executable, "-c", PROGRAM, url)
    finally:
        broker.terminate()
        broker.wait()

    assert done.stdout.strip() == "whole", done.stderr


@pytest.mark.parametrize(
    ("listen", "dialled"),
    [
        ("0.0.0.0", ["127.0.0.1", "127.0.0.2", "127.3.2.1"]),
        ("[::]", ["[::1]"]),
        ("127.0.0.2", ["127.0.0.2"]),
    ],
)
def test_answers_come_from_the_address_that_was_asked(listen: str, dialled: list[str]) -> None:
    """A listener on all addresses is reached at each of them, with small messages and with trains of
    large ones, in both directions."""
    with hermes.Broker(listeners=[f"udp://{listen}:0?insecure=yes"], storage="memory:") as broker:
        port = parse_url(broker.url).port
        for host in dialled:
            with (
                hermes.connect(f"udp://{host}:{port}", timeout=DEADLINE_S) as client,
                client.subscribe("a") as subscription,
                client.publisher("a") as publisher,
            ):
                publisher.send(b"small")
                publisher.send(bytes(1_000_000))
                publisher.flush()

                found = [subscription.receive(timeout=DEADLINE_S).payload for _ in range(2)]

            assert [len(one) for one in found] == [5, 1_000_000]
