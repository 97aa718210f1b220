"""When a multicast group serves a subscription: decided without sockets or time."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from hermes.errors import ConnectionLost
from hermes.native.frames import HEADER_SIZE
from hermes.wire import messages as m
from hermes.wire.codec import decode_control, encode_control
from hermes_udp.native import ffi, lib
from hermes_udp.takeover import NEAR, TakeOver
from tests.transports.udp_outward import sent
from tests.wire import reference as ref

CAST = 4
"""The group's index of the stream."""
OURS = 0
"""The client's."""


def frames_in(data: bytes | bytearray) -> list[Any]:
    """Control frames, decoded; batches as (id, stream, after, through)."""
    found: list[Any] = []
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at + 24)
        payload = bytes(data[at + HEADER_SIZE : at + HEADER_SIZE + length])
        if data[at + 5] == ref.BATCH:
            found.append(struct.unpack_from("<IIQQ", payload))
        else:
            found.append(decode_control(data[at + 5], payload))
        at += HEADER_SIZE + (length + 7) // 8 * 8
    return found


class Client:
    """A client whose bytes are judged, and the broker and the group that it talks to."""

    def __init__(self) -> None:
        self.rows = TakeOver()
        self.wire = bytearray()
        self.hear(m.Stream(OURS, "default"))

    def says(self, message: Any) -> list[Any]:
        """Output for a message."""
        self.sends(message)
        self.rows.hear()
        return self.out()

    def sends(self, message: Any) -> None:
        """Send a message that nobody has heard yet."""
        self.wire += sent(self.rows.outward.handle, encode_control(message))

    def out(self) -> list[Any]:
        found = frames_in(self.wire + sent(self.rows.outward.handle, b""))
        self.wire.clear()
        return found

    def hear(self, message: Any) -> bool:
        """The broker's; whether it passes."""
        frame = encode_control(message)
        (length,) = struct.unpack_from("<I", frame, 24)
        return self.rows.control_passes(frame[5], frame[HEADER_SIZE : HEADER_SIZE + length])

    def subscribe(self, filter: str = "a.>", *, at: int = 10, **fields: Any) -> None:
        """A subscription that has begun at ``at``, and is known to have no other streams."""
        said = self.says(m.Subscribe(1, filter, **fields))
        self.rows.handed_out(1, OURS, at)
        for ping in said[1:]:
            assert not self.hear(m.Pong(ping.token))

    def join(self, through: int = 10, *, pattern: bytes = b">", name: bytes = b"default") -> None:
        beacon = ffi.new("hu_beacon *", {"pattern_size": len(pattern), "streams": 1})
        ffi.memmove(beacon.pattern, pattern, len(pattern))
        entries = ffi.new("hu_beacon_entry[1]")
        entries[0].through, entries[0].index, entries[0].name_size = through, CAST, len(name)
        ffi.memmove(entries[0].name, name, len(name))
        self.rows.begin(beacon, entries)

    def walk(self, data: bytes) -> list[Any]:
        """Messages that the client gets out of the group's ``data``."""
        found = bytearray()
        event, consumed = ffi.new("hu_select_event *"), ffi.new("uint64_t *")
        place = ffi.new("uint8_t[]", 65536)
        while True:
            piece = ffi.new("uint8_t[]", data or b"\0")
            bytes_ = ffi.new("hu_bytes *")
            bytes_.data[0], bytes_.size[0], bytes_.data[1] = piece, len(data), piece
            size = lib.hu_select_walk(self.rows.select, bytes_, place, 65536, consumed, event)
            found += ffi.buffer(place, size)
            data = data[consumed[0] :]
            if event.what == lib.HU_SELECT_MORE:
                return frames_in(found)
            self.rows.happened(event)
            found += self.rows.down
            self.rows.down.clear()


@pytest.fixture
def client() -> Client:
    return Client()


def test_a_subscription_that_is_as_far_is_taken_over(client: Client) -> None:
    """The broker is told to end it, what still comes of it is left out, and the group goes on where
    unicast was."""
    client.subscribe(at=12)
    client.join(10)

    assert not client.rows.advance()
    assert client.out() == [m.Unsubscribe(1)]
    assert client.rows.taken == 1
    assert not client.rows.batch_passes(1)
    assert not client.hear(m.Gap(1, OURS, 13, 14, "retention"))
    assert not client.hear(m.Unsubscribe(1))
    assert client.rows.batch_passes(1)
    messages = b"".join(ref.message("a.b", b"x", n) for n in (11, 12, 13))
    assert client.walk(ref.batch(9, CAST, 10, 13, messages)) == [(1, OURS, 12, 13)]


def test_one_that_is_behind_waits_for_its_unicast(client: Client) -> None:
    """The group is to be held while it is near, and not while it is far."""
    client.subscribe(at=10)
    client.join(10 + NEAR + 1)

    assert not client.rows.advance()
    client.rows.handed_out(1, OURS, 11)
    assert client.rows.advance()
    client.rows.handed_out(1, OURS, 10 + NEAR)
    assert client.rows.advance()
    assert client.rows.taken == 0
    client.rows.handed_out(1, OURS, 11 + NEAR)
    client.rows.advance()

    assert client.rows.taken == 1


def test_a_group_within_a_batch_is_not_held(client: Client) -> None:
    """Held there, it would never come to the border at which a subscription is taken over."""
    client.subscribe(at=12)
    client.join(10)
    batch = ref.batch(9, CAST, 10, 12, ref.message("a.b", bytes(1000), 12))
    client.walk(batch[:200])

    assert not client.rows.advance()
    assert client.rows.taken == 0
    client.walk(batch[200:])
    client.rows.advance()

    assert client.rows.taken == 1


def test_one_whose_streams_are_not_all_known_is_left(client: Client) -> None:
    """Before the answer to our own ping it is not known where it begins everywhere."""
    subscribe, ping = client.says(m.Subscribe(1, "a.>"))
    client.join(0)
    client.rows.handed_out(1, OURS, 10)

    client.rows.advance()
    assert client.rows.taken == 0
    assert subscribe == m.Subscribe(1, "a.>")
    assert client.hear(m.Pong(7))
    assert not client.hear(m.Pong(ping.token))
    client.rows.advance()
    assert client.rows.taken == 1


@pytest.mark.parametrize(
    ("filter", "fields", "pattern", "name"),
    [
        ("a.>", {}, b"b.>", b"default"),
        ("a", {"kind": "prefix"}, b"a.>", b"default"),
        ("a.>", {}, b">", b"another"),
    ],
)
def test_what_the_group_does_not_have_stays_on_unicast(
    client: Client, filter: str, fields: dict[str, Any], pattern: bytes, name: bytes
) -> None:
    """A filter that the cast pattern does not cover, and a stream that is not in the table."""
    client.subscribe(filter, **fields)
    assert client.rows.wants_group
    client.join(0, pattern=pattern, name=name)

    assert not client.rows.advance()

    assert client.rows.taken == 0
    assert not client.rows.wants_group


def test_a_stream_that_was_never_announced_is_the_clients_to_refuse(client: Client) -> None:
    """A batch of one does not make the group serve its subscription, nor anything worse."""
    client.subscribe()
    client.join()
    client.rows.handed_out(1, 99, 10)

    assert not client.rows.advance()

    assert client.rows.taken == 0


def test_a_durable_subscription_stays_on_unicast(client: Client) -> None:
    """The broker must see how far it is; no ping goes with it either."""
    assert client.says(m.Subscribe(1, "a.>", durable="d")) == [m.Subscribe(1, "a.>", durable="d")]
    assert not client.rows.wants_group


def test_the_end_of_one_that_was_taken_over_is_answered_here(client: Client) -> None:
    """The broker has ended it already; the same id may be used again at once."""
    client.subscribe(at=10)
    client.join(10)
    client.rows.advance()
    client.out()

    assert client.says(m.Unsubscribe(1)) == []
    assert client.rows.owes
    client.rows.advance()
    assert frames_in(client.rows.down) == [m.Unsubscribe(1)]
    assert client.rows.taken == 0
    client.rows.down.clear()
    assert [type(one) for one in client.says(m.Subscribe(1, "b"))] == [m.Subscribe, m.Ping]
    assert not client.rows.batch_passes(1)  # of the first, until the broker's answer
    assert not client.hear(m.Unsubscribe(1))
    assert client.rows.batch_passes(1)


def test_the_end_of_one_that_was_not_goes_to_the_broker(client: Client) -> None:
    """And so does its answer."""
    client.subscribe()

    assert client.says(m.Unsubscribe(1)) == [m.Unsubscribe(1)]
    assert client.hear(m.Unsubscribe(1))
    assert not client.rows.wants_group


def test_a_refused_subscription_is_forgotten(client: Client) -> None:
    """The client hears of it; there is nothing to take over."""
    client.says(m.Subscribe(1, "a.>"))

    assert client.hear(m.Error("not_allowed", "no", fatal=False, subscription=1))
    assert not client.rows.wants_group


def test_one_that_is_refused_something_later_is_served_no_more(client: Client) -> None:
    """The broker does not know one that was taken over; the client takes its Error for the end."""
    client.subscribe(at=10)
    client.join(10)
    client.rows.advance()
    assert not client.hear(m.Unsubscribe(1))

    assert client.hear(m.Error("unknown_subscription", "no", fatal=False, subscription=1))

    client.rows.advance()
    assert client.rows.taken == 0
    assert not client.rows.down
    assert client.walk(ref.batch(9, CAST, 10, 11, ref.message("a.b", b"x", 11))) == []


def test_a_hole_becomes_a_gap(client: Client) -> None:
    """A part that the group leaves out is told, with the group's own reason if it has one."""
    client.subscribe(at=10)
    client.join(10)
    client.rows.advance()

    lost = client.walk(ref.batch(9, CAST, 15, 16, ref.message("a.b", b"x", 16)))
    damaged = client.walk(encode_control(m.Gap(9, CAST, 17, 20, "damaged")))

    assert lost == [m.Gap(1, OURS, 11, 15, "retention"), (1, OURS, 15, 16)]
    assert damaged == [m.Gap(1, OURS, 17, 20, "damaged")]


def test_a_stream_that_begins_later_is_known_by_its_first_batch(client: Client) -> None:
    """Announced in the group, it counts from where its first batch ends, not from 0."""
    client.join(10)
    client.hear(m.Stream(1, "md"))
    client.says(m.Subscribe(2, "md.>"))
    client.walk(encode_control(m.Stream(5, "md")))
    (served,) = client.rows._served.values()
    served.settled = True
    client.rows.handed_out(2, 1, 40)

    client.rows.advance()
    assert client.rows.taken == 0
    client.walk(ref.batch(9, 5, 30, 40, b""))
    client.rows.advance()
    assert client.rows.taken == 1


def test_what_is_no_stream_ends_the_connection(client: Client) -> None:
    """Nonsense in the group is nothing to go on from."""
    client.subscribe()
    client.join()

    with pytest.raises(ConnectionLost, match="not a stream"):
        client.walk(bytes(100))
    client = Client()
    client.join()
    with pytest.raises(ConnectionLost, match="malformed"):
        client.walk(ref.frame(21, b"\xff"))


def test_after_the_last_word_nothing_comes(client: Client) -> None:
    """Behind the broker's Close no batch may follow: the group is left."""
    client.subscribe()
    assert client.rows.wants_group

    assert client.hear(m.Close())
    assert not client.rows.wants_group
