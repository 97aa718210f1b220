"""Errors: killed peers, peers of other users, and machines that run out of something."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hermes.errors import ConnectFailed, HermesError, SystemFault
from hermes.spi.transport import Transport
from hermes.spi.url import Url, parse_url
from hermes.testing.contract import needs, raises
from hermes.testing.kernel import Defect, EchoKernel
from hermes.testing.peers import Peer
from hermes.testing.resources import Stopwatch, descriptors_left
from hermes.testing.transport.contract import Contract
from hermes.testing.transport.readiness import BUSY_MAX
from hermes.testing.transport.stage import NS_PER_S, Client, Stage, with_options

SHORT_NS = 300_000_000
"""How long a dial may take that is expected to fail."""
FEW = range(4)
"""Descriptors left: somewhere in there the client has what it needs and the agent has not."""
DEFECTS = {"input": ("buffer_updated", "data_received"), "output": ("output",)}
"""Methods of a connection that raise together; which one takes input is the transport's choice."""
Spawn = Callable[[str, Url], Peer]


@contextlib.contextmanager
def raises_nothing(sentence: str) -> Iterator[None]:
    """Fail with ``sentence`` if a defect of the kernel's comes through the agent."""
    try:
        yield
    except Defect as error:
        raise AssertionError(f"{sentence}; it came out of the agent's poll()") from error


class ErrorsContract(Contract):
    """Behaviour of a transport when something breaks."""

    @pytest.fixture
    def spawn(self) -> Iterator[Spawn]:
        """``spawn(role, url)``: a process of :mod:`hermes.testing.peer`, ended after the test."""
        with contextlib.ExitStack() as undo:
            yield lambda role, url: undo.enter_context(Peer("hermes.testing.peer", self, role, url))

    @needs("processes")
    def test_a_client_that_is_killed(self, stage: Stage, spawn: Spawn) -> None:
        """Its connection is lost, once and with an error, because output did not reach it; the
        agent sleeps again and others are served."""
        stage.kernel.echo = False
        child = spawn("dial", stage.url)
        stage.until(
            lambda: stage.kernel.connections and stage.kernel.connections[0].received,
            "a child process to connect and greet",
        )
        (connection,) = stage.kernel.connections
        connection.send(bytes(32 << 20))
        stage.settle()
        child.kill()
        stage.until(
            lambda: connection.lost,
            "connection_lost() for a peer that was killed",
            deadline_s=self.loss_deadline_s,
        )

        assert len(connection.lost) == 1
        assert connection.lost[0] is not None, (
            "connection_lost(None): None means that it was closed in order, and this peer was "
            "killed before it had read what was sent to it"
        )
        stage.kernel.echo = True
        stage.exchange(stage.connect()[0], b"still here")

    @needs("processes")
    def test_a_broker_that_is_killed(
        self, transport: Transport, free_url: Callable[..., Url], spawn: Spawn
    ) -> None:
        """The channel says so, by ConnectionLost or the end of input, whether it sends or waits."""
        child = spawn("listen", free_url())
        url = with_options(parse_url(child.line()), **self.client_options)
        client = Client(transport.dial(url, int(self.deadline_s * NS_PER_S)))
        try:
            client.send(b"hello")
            self._turn_until(client, lambda: client.data == b"hello")
            child.kill()
            self._turn_until(client, lambda: client.over)
        finally:
            client.close()

    def _turn_until(self, client: Client, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.loss_deadline_s
        while not condition():
            client.turn()
            client.channel.wait(readable=True, writable=False, timeout_ns=NS_PER_S // 100)
            assert time.monotonic() < deadline, (
                "the broker was killed and the channel says nothing: expected the end of input or "
                "ConnectionLost"
            )

    @needs("peer_credentials", "processes")
    def test_a_peer_of_another_user(self, stage: Stage, spawn: Spawn) -> None:
        """A process of another user is turned away, or the broker is told another identity than
        that of its own user."""
        if os.geteuid() != 0:
            pytest.skip("only root can start a process of another user")
        _, own = stage.connect()
        open_to_all(stage.url)
        child = spawn("dial_as_nobody", stage.url)
        said = stage.meanwhile(child.line, "a process of another user to dial")
        if said == "refused":
            return
        stage.until(lambda: len(stage.kernel.connections) > 1, "the agent to accept a peer")

        other = stage.kernel.connections[1].peer
        assert other.identity is None or other.identity != own.peer.identity, (
            f"Peer.identity: who the transport has proven the peer to be; a process of another user is "
            f"said to be {other.identity!r}, as one of the broker's own user is"
        )

    def test_a_client_that_goes_without_reading(self, stage: Stage) -> None:
        """A client that closes with unread megabytes on the way is noticed, and told once."""
        stage.kernel.echo = False
        client, connection = stage.connect()
        client.reading = False
        connection.send(bytes(32 << 20))
        stage.settle()
        client.close()
        stage.clients.clear()
        stage.until(
            lambda: connection.lost,
            "connection_lost() for a client that closed with output on its way",
            deadline_s=self.loss_deadline_s,
        )

        assert len(connection.lost) == 1

    @pytest.mark.parametrize("defects", DEFECTS.values(), ids=DEFECTS)
    def test_a_defect_in_serving_a_peer(self, stage: Stage, defects: tuple[str, ...]) -> None:
        """An error out of a connection's method ends that connection, reported once with the error;
        nothing comes out of poll(), and others are served."""
        beside, _ = stage.connect()
        faulty, connection = stage.connect()
        stage.exchange(beside, b"before")
        connection.defects = defects
        faulty.send(b"serve me")
        connection.send(b"your turn")
        with raises_nothing("Connection: what serving one peer raises ends that peer alone"):
            stage.until(
                lambda: connection.lost,
                f"connection_lost() after {' or '.join(defects)} raised",
                deadline_s=self.loss_deadline_s,
            )
            stage.exchange(beside, b"afterwards")

        assert len(connection.lost) == 1
        assert connection.lost[0] is not None, (
            "connection_lost(None): None means that it was closed in order, and serving the peer "
            "has raised"
        )
        stage.exchange(stage.connect()[0], b"another")

    def test_no_descriptor_for_a_client(self, transport: Transport, stage: Stage) -> None:
        """dial() without a free descriptor raises ConnectFailed, and leaves nothing behind."""
        url = stage.url
        sentence = "Transport.dial: without a free descriptor it fails"
        with descriptors_left(0), raises(ConnectFailed, sentence):
            transport.dial(url, SHORT_NS)

        stage.exchange(stage.connect()[0], b"afterwards")

    def test_no_descriptor_for_a_listener(
        self, transport: Transport, free_url: Callable[..., Url], kernel: EchoKernel
    ) -> None:
        """listen() without a free descriptor raises an error of Hermes' that says so."""
        url = free_url()
        sentence = "Transport.listen: without a free descriptor it raises one of hermes.errors"
        with descriptors_left(0), raises(HermesError, sentence):
            transport.listen(url, kernel)

    def test_no_descriptor_for_a_new_peer(self, stage: Stage) -> None:
        """An agent that has no descriptors for new peers goes on, without spinning: they wait or are
        turned away, and are accepted when there are some again."""
        staying, _ = stage.connect()
        for left in FEW:
            with descriptors_left(left):
                waiting = self._dial_in_need(stage)
                with Stopwatch() as watch:
                    end = time.monotonic() + 0.1
                    while time.monotonic() < end:
                        stage.agent.poll(NS_PER_S // 50)
            assert watch.busy < BUSY_MAX, (
                f"out of descriptors the agent used {watch.busy:.0%} of a processor"
            )
            stage.exchange(staying, b"still here")
            for client in waiting:
                client.send(b"here at last")
                stage.until(lambda c=client: c.over or len(c.data) == 12, "an echo, or the end")  # type: ignore[misc]
                assert client.over or client.data == b"here at last"
                client.close()
                stage.clients.remove(client)
        stage.exchange(stage.connect()[0], b"afterwards")

    @staticmethod
    def _dial_in_need(stage: Stage) -> list[Client]:
        """A client if the dial worked, none if it said that it did not."""
        url = stage.url
        try:
            channel = stage.meanwhile(
                lambda: stage.transport.dial(url, SHORT_NS), "dial() to return"
            )
        except SystemFault:
            return []
        stage.clients.append(Client(channel))
        return [stage.clients[-1]]


def open_to_all(url: Url) -> None:
    """Let other users reach a socket that has a path."""
    place = Path(url.path)
    if place.is_absolute() and place.exists():
        place.parent.chmod(0o755)
        place.chmod(0o666)
