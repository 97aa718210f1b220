"""Lifecycle: beginning, refusing and ending, in every order, and nothing left behind."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import ClassVar

from hermes.errors import AddressInUse, ConnectFailed, ConnectionLost, HermesError, WouldBlock
from hermes.spi.transport import Transport
from hermes.spi.url import Url, parse_url
from hermes.testing.contract import needs, raises
from hermes.testing.kernel import EchoKernel
from hermes.testing.resources import Held, many_descriptors
from hermes.testing.transport.contract import Contract
from hermes.testing.transport.stage import NS_PER_S, Call, Client, Stage

WARM_UP = 50
"""Connections before the first count: pools and caches are full by then."""
LISTENERS = 20
LISTENERS_WARM_UP = 5
DIAL_NS = NS_PER_S
"""How long a dial may take that nobody answers."""
SLACK_S = 5.0
"""How much later than its deadline a dial may return: the machine may be busy."""
DIALS_MAX = 5000
"""Dials that nobody accepts: more than the largest backlog that Linux grants by default (4096)."""
MEGABYTES = 8 << 20
"""More than a medium holds: some of it is under way when something is closed."""


class LifecycleContract(Contract):
    """Listeners and connections come and go."""

    cycles: ClassVar[int] = 1000
    """Connections after which nothing may be left."""

    # Beginning.

    def test_nobody_there(self, transport: Transport, stage: Stage) -> None:
        """dial() raises ConnectFailed by its deadline where nobody listens any more."""
        url = stage.url
        stage.close()
        begun = time.monotonic()
        with raises(ConnectFailed, "Transport.dial: where nobody listens it fails"):
            transport.dial(url, DIAL_NS)

        took = time.monotonic() - begun
        assert took < DIAL_NS / NS_PER_S + SLACK_S, f"dial() took {took:.1f} s, asked were 1 s"

    def test_a_dial_ends_though_nobody_accepts(self, transport: Transport, stage: Stage) -> None:
        """dial() ends by its deadline, however many peers wait already to be accepted."""
        url, channels = stage.url, []
        patience_s = DIAL_NS / NS_PER_S + SLACK_S
        try:
            with many_descriptors():
                for number in range(DIALS_MAX):
                    dialling = Call(lambda: transport.dial(url, DIAL_NS))
                    dialling.join(patience_s)
                    assert not dialling.is_alive(), (
                        f"Transport.dial: it waits at most timeout_ns; with {number} peers that "
                        f"nobody has accepted it has not returned after {patience_s:g} s"
                    )
                    channels.append(dialling.result())
        except ConnectFailed:
            pass
        finally:
            for channel in channels:
                channel.close()

        stage.settle()
        come_to_rest(stage)
        stage.exchange(stage.connect()[0], b"afterwards")

    def test_an_address_has_one_listener(
        self, transport: Transport, stage: Stage, kernel: EchoKernel
    ) -> None:
        """A second listen() at the same address raises AddressInUse; the first goes on."""
        client, _ = stage.connect()
        with raises(AddressInUse, "Transport.listen: an address has one listener"):
            transport.listen(parse_url(stage.agent.url), kernel)

        stage.exchange(client, b"still here")

    def test_an_address_is_free_after_close(
        self, transport: Transport, stage: Stage, kernel: EchoKernel
    ) -> None:
        """A broker that was stopped can be started again at once, at the same address."""
        stage.exchange(stage.connect()[0], b"there were clients")
        url = parse_url(stage.agent.url)
        stage.close()

        again = Stage(transport, url, kernel, self.deadline_s, self.client_options)
        try:
            again.exchange(again.connect()[0], b"here again")
        finally:
            again.close()

    def test_the_peer_is_described(self, stage: Stage) -> None:
        """The broker is told the scheme, a printable address, and of ``local`` only what is
        proven."""
        _, connection = stage.connect()
        peer = connection.peer

        assert peer.transport == stage.url.scheme
        assert peer.address
        assert peer.address.isprintable()
        claimed = stage.transport.capabilities.peer_credentials
        assert peer.local == claimed, (
            f"Peer.local is {peer.local}, and the capability peer_credentials is {claimed}: the "
            "system proves it or it is not claimed"
        )

    @needs("native_fd")
    def test_a_channel_has_the_socket_it_claims(self, stage: Stage) -> None:
        """``stream_fd`` is a connected stream socket that bytes may be written to."""
        client, _ = stage.connect()
        descriptor = client.channel.stream_fd

        assert descriptor is not None, "Channel.stream_fd: the capability native_fd is claimed"
        with socket.socket(fileno=os.dup(descriptor)) as same:
            assert same.type == socket.SOCK_STREAM
            same.send(b"written by others")
        stage.until(lambda: client.received == 17, "an echo of what was written to stream_fd")

    @needs("!native_fd")
    def test_a_channel_has_no_socket_that_it_does_not_claim(self, stage: Stage) -> None:
        """``stream_fd`` is None: nobody writes past the transport."""
        client, _ = stage.connect()

        assert client.channel.stream_fd is None

    @needs("native_fd")
    def test_a_client_that_sends_no_more_gets_all_output(self, stage: Stage) -> None:
        """The end of a client's input is not the end of its connection: output goes on until the
        broker closes."""
        stage.kernel.echo = False
        client, connection = stage.connect()
        client.reading = client.keeping = False
        client.send(b"the last request")
        stage.until(lambda: connection.received == 16, "the last request")
        connection.send(bytes(MEGABYTES))
        descriptor = client.channel.stream_fd
        assert descriptor is not None, "Channel.stream_fd: the capability native_fd is claimed"
        with socket.socket(fileno=os.dup(descriptor)) as same:
            same.shutdown(socket.SHUT_WR)
        stage.until(lambda: connection.ended or connection.lost, "eof_received()")
        client.reading = True
        stage.until_over(client)

        assert client.received == MEGABYTES, (
            "Connection.eof_received: the peer sends no more, and output may still be pulled until "
            f"Connection.closing; {client.received} of {MEGABYTES} bytes arrived"
        )

    # Refusing.

    def test_a_peer_that_the_broker_refuses(self, stage: Stage) -> None:
        """A refused peer is turned away: dial() fails or the channel ends; others are served."""
        client, _ = stage.connect()
        stage.kernel.connections_max = 1

        assert_turned_away(stage)

        stage.exchange(client, b"still here")

    def test_stop_accepting_serves_who_is_there(self, stage: Stage) -> None:
        """Newcomers are turned away, a connected peer is served, and twice is as good as once."""
        client, _ = stage.connect()
        stage.agent.stop_accepting()
        stage.agent.stop_accepting()

        stage.exchange(client, b"still here")
        assert_turned_away(stage)
        stage.exchange(client, b"and still here")

    # Ending.

    def test_a_client_that_leaves_is_told_once(self, stage: Stage) -> None:
        """After Channel.close the connection is lost, once; the agent and other peers go on."""
        staying, _ = stage.connect()
        leaving, connection = stage.connect()
        leaving.close()
        leaving.close()
        stage.clients.remove(leaving)

        stage.until(lambda: connection.lost, "the agent to notice that a client closed")
        stage.exchange(staying, b"still here")
        assert len(connection.lost) == 1

    def test_last_words_arrive(self, stage: Stage) -> None:
        """A connection that the broker closes delivers all its output, then the end of input: also
        if its peer goes on sending what nobody reads."""
        stage.kernel.echo = False
        client, connection = stage.connect()
        client.send(bytes(MEGABYTES // 8))
        connection.send(b"x" * 300_000 + b"goodbye")
        connection.close()
        stage.until(lambda: client.over, "the end of input after the broker closed")

        assert len(client.data) == 300_007, (
            f"Connection.closing: the medium is closed as soon as its output has been handed over; "
            f"{len(client.data)} of 300007 bytes arrived, then {client.lost or 'the end of input'}"
        )
        assert client.data.endswith(b"goodbye")
        client.close()
        stage.clients.remove(client)
        stage.until(lambda: connection.lost, "connection_lost() after closing in order")
        assert connection.lost == [None], f"it was closed in order, but lost with {connection.lost}"

    def test_closing_the_agent_ends_every_connection(self, stage: Stage) -> None:
        """Every client sees the end or ConnectionLost, every connection is told once, and twice is
        as good as once."""
        pairs = [stage.connect() for _ in range(5)]
        stage.agent.close()
        stage.agent.close()

        for client, connection in pairs:
            assert_ends(client, self.deadline_s)
            assert len(connection.lost) == 1

    def test_the_agent_is_closed_while_much_is_sent(self, stage: Stage) -> None:
        """Closing with megabytes under way in both directions neither hangs nor breaks."""
        client, connection = stage.connect()
        client.keeping = False
        client.send(bytes(MEGABYTES))
        connection.send(bytes(MEGABYTES))
        stage.until(lambda: connection.received and client.received, "some bytes both ways")
        stage.agent.close()

        assert_ends(client, self.deadline_s)
        assert len(connection.lost) == 1

    def test_a_client_leaves_while_much_is_sent(self, stage: Stage) -> None:
        """Closing a channel with megabytes under way in both directions harms nobody else."""
        staying, _ = stage.connect()
        leaving, connection = stage.connect()
        leaving.keeping = False
        leaving.send(bytes(MEGABYTES))
        connection.send(bytes(MEGABYTES))
        stage.until(lambda: connection.received and leaving.received, "some bytes both ways")
        leaving.close()
        stage.clients.remove(leaving)

        stage.until(
            lambda: connection.lost,
            "the agent to notice that a client left",
            deadline_s=self.loss_deadline_s,
        )
        stage.exchange(staying, b"still here")

    def test_connecting_and_closing_leaves_nothing_behind(self, stage: Stage) -> None:
        """After 1,000 connections, ended by either side, there is not one descriptor, thread or
        mapping more."""
        for number in range(WARM_UP):
            cycle(stage, number)
        come_to_rest(stage)
        before = Held.now()
        for number in range(self.cycles):
            cycle(stage, number)
        come_to_rest(stage)

        deadline = time.monotonic() + self.deadline_s
        while not (after := Held.now()) <= before and time.monotonic() < deadline:
            cycle(stage, 1)  # an occasion to clear up what was closed in order and took its time
            come_to_rest(stage)
        assert after <= before, f"{self.cycles} connections left something: {before} became {after}"

    def test_listening_and_closing_leaves_nothing_behind(
        self, transport: Transport, free_url: Callable[..., Url]
    ) -> None:
        """Twenty listeners with a client each, closed in either order, leave nothing."""

        def listen(number: int) -> None:
            stage = Stage(transport, free_url(), EchoKernel(), self.deadline_s, self.client_options)
            stage.exchange(stage.connect()[0], b"hello")
            if number % 2:
                stage.agent.close()
            stage.close()

        for number in range(LISTENERS_WARM_UP):
            listen(number)
        before = Held.now()
        for number in range(LISTENERS):
            listen(number)

        deadline = time.monotonic() + self.deadline_s
        while not (after := Held.now()) <= before and time.monotonic() < deadline:
            time.sleep(0.01)  # a client's end may still be seen off by a thread
        assert after <= before, f"{LISTENERS} listeners left something: {before} became {after}"


def cycle(stage: Stage, number: int) -> None:
    """One connection, ended by the client or by the broker, with or without a word."""
    client, connection = stage.connect()
    if number % 2:
        stage.exchange(client, b"hello")
    if number % 3:
        client.close()
    else:
        connection.close()
        stage.until(lambda: client.over, "the end of input after the broker closed")
        client.close()
    stage.clients.clear()


def come_to_rest(stage: Stage) -> None:
    """Wait until ``connection_lost`` was called on every connection."""
    stage.until(lambda: not stage.kernel.live, "every connection to be over")
    stage.kernel.connections.clear()


def assert_turned_away(stage: Stage) -> None:
    """A dial fails, or its channel ends without a byte."""
    try:
        channel = stage.meanwhile(
            lambda: stage.transport.dial(stage.url, DIAL_NS), "dial() to return"
        )
    except ConnectFailed:
        return
    client = Client(channel)
    stage.clients.append(client)
    stage.until(lambda: client.over, "a peer that is not wanted to see the end")
    assert not client.data
    client.close()
    stage.clients.remove(client)


def assert_ends(client: Client, deadline_s: float) -> None:
    """Assert that the channel ends, after any input that is left in it."""
    buffer = memoryview(bytearray(1 << 20))
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        try:
            client.channel.wait(readable=True, writable=False, timeout_ns=NS_PER_S // 10)
            if client.channel.receive_into(buffer) == 0:
                return
        except WouldBlock:
            continue
        except ConnectionLost:
            return
        except (OSError, HermesError) as error:
            raise AssertionError(
                f"Channel.receive_into raised {error!r}: a channel raises WouldBlock and "
                "ConnectionLost, and translates what the system raises"
            ) from error
    raise AssertionError(
        "the broker's end was closed and the channel says nothing: expected the end of input or "
        "ConnectionLost"
    )
