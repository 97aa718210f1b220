"""Connections that break, and publishers whose id another program uses: what is not acknowledged is
sent again or told, and what was closed stays closed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import hermes
from hermes.broker import requests
from hermes.client.session import Session
from hermes.errors import ConnectionLost, HermesError, Refused, StorageFailed, StorageFull, Timeout
from hermes.wire import messages as m

if TYPE_CHECKING:
    from tests.client.conftest import Wire


def open_clients(client: hermes.Client) -> list[dict[str, object]]:
    """The broker's rows of the connections that are open."""
    clients: list[dict[str, object]] = client.stats()["clients"]
    return [one for one in clients if one["state"] == "open"]


def publish(publisher: hermes.Publisher, payload: bytes, timeout: float | None = None) -> None:
    """Send one message and wait for its acknowledgement."""
    publisher.send(payload, timeout=timeout)
    publisher.flush(timeout)


def cut_for_good(wire: Wire, client: hermes.Client, publisher: hermes.Publisher) -> None:
    """Break the connection so that ``client`` knows and cannot come back."""
    wire.refusing = True
    wire.cut()
    with pytest.raises(Timeout):
        publish(publisher, b"during the outage", timeout=0.2)
    assert not client.connected


def test_a_publisher_whose_id_is_taken_is_told(client: hermes.Client, other: hermes.Client):
    """The older of two publishers of one id learns what is not acknowledged; the newer goes on."""
    older = client.publisher("a")
    older.send(b"older 1")
    older.flush()
    newer = other.publisher("a", publisher_id=older.publisher_id)
    client.ping()
    reader = other.subscribe("a", start="earliest")

    with pytest.raises(Refused, match=r"opened by another connection.*at a time") as caught:
        publish(older, b"older 2")
    newer.send(b"newer 2")
    newer.flush()

    assert caught.value.code == "publisher_taken"
    assert [reader.receive(60).payload for _ in range(2)] == [b"older 1", b"newer 2"]
    with pytest.raises(HermesError):
        older.close()


def test_an_id_that_is_taken_while_it_is_opened(
    client: hermes.Client, other: hermes.Client, monkeypatch: pytest.MonkeyPatch
):
    """The loss may be told in one read with the answer to Open: publisher() raises it."""
    id = bytes(range(16))
    answer = Session._on_ack

    def together(session: Session, ack: m.Ack) -> None:
        answer(session, ack)
        if session is client._connection.session:
            session._on_error(m.Error("publisher_taken", "by another", False, ack.publisher))

    session = client._connection.session
    monkeypatch.setitem(session._handlers, m.Ack, partial(together, session))

    with pytest.raises(Refused, match="by another"):
        client.publisher("a", publisher_id=id)
    client.ping()

    assert client.stats()["clients"][0]["publishers"] == 0


def test_what_another_published_is_not_taken_for_ours(client: hermes.Client, other: hermes.Client):
    """resend() after an id was taken refuses to go on if the other has used our numbers: they would
    pass for what is not acknowledged here."""
    older = client.publisher("a")
    client.ping()
    newer = other.publisher("a", publisher_id=older.publisher_id)
    older.send(b"older 1")
    newer.send(b"newer 1")
    newer.flush()
    with pytest.raises(Refused):
        older.flush()

    with pytest.raises(Refused, match="another program uses its publisher_id"):
        older.resend()
    with pytest.raises(Refused, match="1 messages are unacknowledged"):
        older.close()


def test_an_id_is_taken_back_by_resend(client: hermes.Client, other: hermes.Client):
    """If the other has published nothing, resend() goes on with everything."""
    older = client.publisher("a")
    client.ping()
    newer = other.publisher("a", publisher_id=older.publisher_id)
    older.send(b"older 1")
    with pytest.raises(Refused):
        older.flush()

    older.resend()
    older.flush()

    assert client.streams()[0]["messages"] == 1
    other.ping()
    with pytest.raises(Refused):
        publish(newer, b"x")
    with pytest.raises(Refused):
        newer.close()


def test_a_refused_publisher_is_not_opened_by_a_reconnect(
    broker: hermes.Broker, wire: Wire, other: hermes.Client
):
    """A client whose publisher lost its id does not take it back just because it reconnects."""
    with hermes.connect(wire.url) as client:
        older = client.publisher("a")
        client.ping()
        newer = other.publisher("a", publisher_id=older.publisher_id)
        client.ping()
        wire.cut()
        client.ping()

        newer.send(b"x")
        newer.flush()

        with pytest.raises(Refused):
            publish(older, b"y")
        with pytest.raises(Refused):
            older.close()
        client.ping()


def test_what_is_closed_during_an_outage_stays_closed(broker: hermes.Broker, wire: Wire):
    """A subscription or publisher closed while there is no connection does not come back with the
    next one."""
    with hermes.connect(wire.url) as client:
        subscription = client.subscribe("a", durable="name")
        publisher = client.publisher("b", ack="none")
        cut_for_good(wire, client, client.publisher("c"))
        subscription.close()
        publisher.close()
        wire.refusing = False

        client.ping()

        (described,) = open_clients(client)
        assert (described["subscriptions"], described["publishers"]) == (0, 1)
        client.subscribe("a", durable="name").close()


def test_closing_says_what_a_connection_took_with_it(wire: Wire):
    """A thread that closes a publisher after the connection was given up, another one perhaps, hears
    that messages are unacknowledged: once."""
    client = hermes.connect(wire.url, reconnect=False)
    publisher = client.publisher("a")
    subscription = client.subscribe("b")
    wire.hold("down")
    publisher.send(b"x")
    wire.cut()
    with pytest.raises(ConnectionLost):
        subscription.receive(60)

    with pytest.raises(ConnectionLost, match="1 messages are unacknowledged"):
        publisher.close()
    publisher.close()
    client.close()


def test_closing_the_client_says_it_too(wire: Wire):
    """The same for a client whose publishers nobody closed."""
    client = hermes.connect(wire.url, reconnect=False)
    publisher = client.publisher("a")
    wire.hold("down")
    publisher.send(b"x")
    wire.cut()
    with pytest.raises(ConnectionLost):
        client.ping()

    with pytest.raises(ConnectionLost, match="1 messages are unacknowledged"):
        client.close()
    client.close()


def test_a_commit_that_fails_leaves_the_subscription_alive(
    serve: Callable[..., hermes.Broker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A full disk refuses a commit, not the subscription; the next commit may work."""
    broker = serve(storage=f"mmap:{tmp_path / 'data'}")

    def fail(*_: object) -> None:
        raise StorageFull("no room")

    with hermes.connect(broker.url) as client:
        subscription = client.subscribe("a", durable="name")
        publisher = client.publisher("a")
        publisher.send(b"1")
        subscription.receive(60)
        assert broker._kernel is not None
        monkeypatch.setattr(type(broker._kernel.context.storage), "save_state", fail)
        with pytest.raises(StorageFailed, match="no room"):
            subscription.commit()
        monkeypatch.undo()

        publisher.send(b"2")

        assert subscription.receive(60).payload == b"2"
        subscription.commit()


def test_a_subscription_that_was_not_confirmed_in_time_is_given_up(
    broker: hermes.Broker, wire: Wire
):
    """A timeout leaves nothing behind at the broker: the durable name is free again."""
    with hermes.connect(wire.url) as client:
        wire.hold("down")
        with pytest.raises(Timeout):
            client.subscribe("a", durable="name", timeout=0.1)
        wire.let_go()

        client.subscribe("a", durable="name").close()


def test_a_connection_that_breaks_again_and_again_is_tried_ever_more_slowly(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
):
    """A broker that takes the connection and then fails at what is asked is not stormed."""

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    with hermes.connect(wire.url) as client:
        monkeypatch.setitem(requests._HANDLERS, m.Query, fail)

        with pytest.raises(Timeout):
            client.stats(timeout=1)

        assert wire.connections < 20
        monkeypatch.undo()
        client.stats()


def test_trying_again_and_again_has_a_bound(wire: Wire, monkeypatch: pytest.MonkeyPatch):
    """So much for ``reconnect`` seconds: then the last thing that went wrong is told."""

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setitem(requests._HANDLERS, m.Query, fail)
    with (
        hermes.connect(wire.url, reconnect=1) as client,
        pytest.raises(
            ConnectionLost, match=r"attempts in .* did not bring it back; .*RuntimeError"
        ),
    ):
        client.stats(timeout=60)
