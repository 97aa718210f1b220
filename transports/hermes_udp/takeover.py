"""Which of a client's subscriptions a multicast group serves, and from when on.

Every subscription begins on the unicast session.  One that is not durable, whose topics the group casts
wholly, and which has come as far by unicast as the group has, is *taken over*: the broker is told to
end it, what still comes of it by unicast is left out, and from then on it is served by selecting from
the group's stream.  The client sees one subscription throughout, its coverage without a seam.

Knows messages and the native selector; no socket, clock or thread.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any, Literal

from hermes.errors import ConnectionLost, MalformedInput
from hermes.native.frames import HEADER_SIZE
from hermes.native.patterns import covers
from hermes.wire import messages as m
from hermes.wire.codec import ControlEncoder, decode_control
from hermes_udp.native import ffi, lib
from hermes_udp.sift import Outward

NEAR = 65536
"""Messages that unicast may lack for the group to be held until it has them."""
UNKNOWN = (1 << 64) - 1
TOKENS = 1 << 62
"""Tokens of our own pings are from here on; clients draw theirs below."""


class Served:
    """A subscription that may be, or has been, taken over."""

    __slots__ = ("filter", "fits", "id", "number", "prefix", "settled", "streams")

    def __init__(self, id: int, filter: str, *, prefix: bool) -> None:
        self.id = id
        self.filter = filter
        self.prefix = prefix
        self.streams: dict[int, int] = {}
        """The client's index of each stream to how far it has it by unicast."""
        self.settled = False
        """Whether ``streams`` has all that it can meet."""
        self.fits = True
        """Whether the group has all that it wants, as far as is known."""
        self.number: int | None = None
        """Its row, once it was taken over."""


class TakeOver:
    """The subscriptions of one connection; a :class:`~hermes_udp.sift.Judge` of its bytes."""

    def __init__(self) -> None:
        self.outward = Outward()
        self.down = bytearray()
        """Frames for the client, which go next, at a border."""
        self.taken = 0
        """Subscriptions that the group serves."""
        self.over = False
        """Whether the broker has said its last word: nothing may come behind it."""
        self._served: dict[int, Served] = {}
        self._ended: list[tuple[int, bytes]] = []
        self._names: dict[int, str] = {}
        self._leaving: dict[int, int] = {}  # by id: answers to our Unsubscribe that are to come
        self._pings: dict[int, Served] = {}
        self._token = TOKENS + random.getrandbits(61)
        self._encode = ControlEncoder().encode
        self._select: Any = None
        self._pattern = ""
        self._cast: dict[str, int] = {}
        self._reason: Literal["retention", "damaged", "epoch"] = "retention"

    # ---- the client's frames ----

    def hear(self) -> None:
        """Take note of what the client has begun and ended."""
        for frame in self.outward.read():
            if frame is None:  # what is not taken over may be over
                self._served = {
                    id: one for id, one in self._served.items() if one.number is not None
                }
            else:
                with contextlib.suppress(MalformedInput):  # the broker will say so
                    self._said(decode_control(frame[5], _payload(frame)), frame)

    def _said(self, message: Any, frame: bytes) -> None:
        if isinstance(message, m.Unsubscribe):
            served = self._served.pop(message.subscription, None)
            if served is not None and served.number is not None:
                self._ended.append((served.number, frame))
        elif message.durable is None:
            served = Served(message.subscription, message.filter, prefix=message.kind == "prefix")
            self._served[message.subscription] = served
            self._token += 1
            self._pings[self._token] = served
            served.fits = self.outward.say(self._encode(m.Ping(self._token)))

    # ---- the broker's frames ----

    def batch_passes(self, id: int) -> bool:
        """See :class:`~hermes_udp.sift.Judge`."""
        return id not in self._leaving

    def handed_out(self, id: int, stream: int, through: int) -> None:
        """See :class:`~hermes_udp.sift.Judge`."""
        served = self._served.get(id)
        if served is not None:
            served.streams[stream] = through

    def control_passes(self, kind: int, payload: bytes) -> bool:
        """See :class:`~hermes_udp.sift.Judge`."""
        try:
            message = decode_control(kind, payload)
        except MalformedInput:  # the client will say so
            return True
        match message:
            case m.Stream():
                self._names[message.index] = message.name
            case m.Pong() if message.token in self._pings:
                self._pings.pop(message.token).settled = True
                return False
            case m.Gap():
                if message.subscription in self._leaving:
                    return False
                end = message.first - 1 if message.reason == "epoch" else message.last
                self.handed_out(message.subscription, message.stream, end)
            case m.Unsubscribe() if message.subscription in self._leaving:
                self._left(message.subscription)
                return False
            case m.Error() if message.subscription is not None and not message.fatal:
                return self._refused(message)
            case m.Close() | m.Error() if isinstance(message, m.Close) or message.fatal:
                self.over = True
        return True

    def _left(self, id: int) -> None:
        self._leaving[id] -= 1
        if not self._leaving[id]:
            del self._leaving[id]

    def _refused(self, error: m.Error) -> bool:
        assert error.subscription is not None
        if error.subscription in self._leaving:
            if error.code == "unknown_subscription":
                self._left(error.subscription)
            return False
        served = self._served.pop(error.subscription, None)
        if served is not None and served.number is not None:  # the client takes it for ended
            self.outward.forget(self._encode(m.Unsubscribe(served.id)))
            self._ended.append((served.number, b""))
        return True

    # ---- the group ----

    @property
    def wants_group(self) -> bool:
        """Whether there is something to have from a group."""
        if self.over:
            return False
        return bool(self._ended) or any(served.fits for served in self._served.values())

    @property
    def owes(self) -> bool:
        """Whether the client is to be told something."""
        return bool(self.down or self._ended)

    def begin(self, beacon: Any, entries: Any) -> None:
        """The group was joined, as its beacon says."""
        self._select = ffi.gc(lib.hu_select_new(), lib.hu_select_free)
        if self._select == ffi.NULL:
            raise ConnectionLost("no memory for a multicast group")
        self._pattern = bytes(ffi.buffer(beacon.pattern, beacon.pattern_size)).decode()
        self._cast = {}
        for i in range(beacon.streams):
            entry = entries[i]
            name = bytes(ffi.buffer(entry.name, entry.name_size)).decode("utf-8", "replace")
            lib.hu_select_stream(self._select, entry.index, entry.through)
            self._cast[name] = entry.index

    def end(self) -> None:
        """The group was left."""
        self._select = None

    @property
    def select(self) -> Any:
        """The selector; None: no group was joined."""
        return self._select

    @property
    def steady(self) -> bool:
        """Whether nothing is to be done but to select, until somebody says something."""
        return not (self._ended or self.down or self.over) and all(
            served.number is not None or not served.fits for served in self._served.values()
        )

    @property
    def pending(self) -> bool:
        """Whether a batch of the group's was begun and not finished."""
        return self._select is not None and bool(lib.hu_select_pending(self._select))

    def advance(self) -> bool:
        """Take over what can be; whether something could be soon, if the group were held.

        Only while the client has whole frames.
        """
        if self._ended and not self.pending:
            for number, frame in self._ended:
                lib.hu_select_remove(self._select, number)
                self.down += frame
                self.taken -= 1
            self._ended.clear()
        near = False
        for served in self._served.values():
            if served.number is not None or not served.fits:
                continue
            lag = self._lag(served)
            if lag == 0 and lib.hu_select_border(self._select):
                self._take(served)
            elif lag and lag <= NEAR:  # with none, the group must come to a border
                near = True
        return near

    def _lag(self, served: Served) -> int | None:
        """Messages that unicast is behind the group; None: unknown."""
        if not served.settled:
            return None
        if not covers(self._pattern, served.filter, prefix=served.prefix):
            served.fits = False
            return None
        lag = 0
        for stream, through in served.streams.items():
            index = self._cast.get(self._names.get(stream, ""))
            if index is None:
                served.fits = False
                return None
            cast = int(lib.hu_select_through(self._select, index))
            if cast == UNKNOWN:
                return None
            lag += max(0, cast - through)
        return lag

    def _take(self, served: Served) -> None:
        filter = served.filter.encode()
        number = lib.hu_select_add(self._select, served.id, served.prefix, filter, len(filter))
        if number < 0:  # as many as there may be
            served.fits = False
            return
        for stream, through in served.streams.items():
            index = self._cast[self._names[stream]]
            lib.hu_select_route(self._select, number, index, stream, through)
        if not self.outward.take(self._encode(m.Unsubscribe(served.id))):
            lib.hu_select_remove(self._select, number)  # the client may have ended it just now
            return
        served.number = int(number)
        self.taken += 1
        self._leaving[served.id] = self._leaving.get(served.id, 0) + 1

    def happened(self, event: Any) -> None:
        """Handle what stopped the walk: a control frame of the group's, or a hole.

        Raises:
            ConnectionLost: the group's stream is none.
        """
        if event.what == lib.HU_SELECT_CONTROL_AT:
            frame = bytes(ffi.buffer(lib.hu_select_control(self._select), event.size))
            self._cast_control(frame[5], frame)
        elif event.what == lib.HU_SELECT_HOLE:
            self.down += self._encode(
                m.Gap(event.id, event.stream, event.first, event.last, self._reason)
            )
        elif event.what == lib.HU_SELECT_MALFORMED:
            raise ConnectionLost("what the multicast group sends is not a stream of batches")

    def _cast_control(self, kind: int, frame: bytes) -> None:
        try:
            message = decode_control(kind, _payload(frame))
        except MalformedInput as error:
            raise ConnectionLost(f"what the multicast group sends is malformed: {error}") from error
        self._reason = "retention"
        if isinstance(message, m.Stream) and message.name not in self._cast:
            if lib.hu_select_stream(self._select, message.index, UNKNOWN) == 0:
                self._cast[message.name] = message.index
        elif isinstance(message, m.Gap):
            self._reason = message.reason
            lib.hu_select_gap(self._select, message.stream, message.last)


def _payload(frame: bytes) -> bytes:
    size = int.from_bytes(frame[24:28], "little")
    return frame[HEADER_SIZE : HEADER_SIZE + size]
