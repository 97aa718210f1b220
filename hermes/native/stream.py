"""Streams, cursors, routers and ingests: the native path of a message through the broker.

A :class:`Stream` joins a log with its topics and the filters of those who want them; a
:class:`Cursor` is how far one subscription has read in one stream; a :class:`Router` knows which
stream takes a topic; an :class:`Ingest` is the inbound side of one connection.  None of them knows
a socket, a protocol message or a user.  The headers ``hm_stream.h``, ``hm_router.h`` and
``hm_ingest.h`` are the contract in full.

Positions and sizes are bytes, sequences count messages from 1, times are the broker's clock,
nanoseconds.

Lifetimes are explicit: close cursors and ingests, then the router, then streams, then their logs.
Closing a stream closes its cursors.  Threads: one thread owns a router and everything that hangs on
it; no call blocks, and each may be made without holding anything else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from hermes.base.closing import Closable
from hermes.errors import Closed, UsageError
from hermes.native._core import ffi, lib
from hermes.native._errors import check
from hermes.native.patterns import encoded

if TYPE_CHECKING:
    from hermes.native.log import Log

TOPICS_MAX = 4_000_000
"""Topics of a stream unless told: about 300 MB of table when they are all there."""
STREAMS_MAX: int = lib.HM_STREAMS_MAX
PUBLISHERS_MAX: int = lib.HM_PUBLISHERS_MAX
"""Open publishers of one connection."""
MESSAGE_MAX: int = lib.HM_MESSAGE_MAX
BATCH_HEADER: int = lib.HM_BATCH_HEADER
PUBLISHER_BYTES = 16

_new_raw = ffi.new_allocator(should_clear_after_alloc=False)
_INFO = struct.Struct("=2I2Q")


class Start(IntEnum):
    """Place in a stream at which a cursor begins."""

    LATEST = lib.HM_START_LATEST
    EARLIEST = lib.HM_START_EARLIEST
    LAST = lib.HM_START_LAST
    """The newest message of each topic that the filter wants, then live."""
    SEQUENCE = lib.HM_START_SEQUENCE
    TIME = lib.HM_START_TIME


class Feed(IntEnum):
    """Why :meth:`Ingest.feed` came back: the ``kind`` of an ``hm_feed``."""

    MORE = lib.HM_FEED_MORE
    CONTROL = lib.HM_FEED_CONTROL
    ERROR = lib.HM_FEED_ERROR
    REFUSED = lib.HM_FEED_REFUSED


class TopicInfo(NamedTuple):
    """One topic of a stream."""

    name: str
    last_sequence: int
    """Sequence of its newest message; 0: none is kept."""
    messages: int
    """Appended since the stream was opened."""


class StreamStatus(NamedTuple):
    """Counters of a stream; see ``hm_stream_status`` in the header."""

    topics: int
    topic_bytes: int
    filters: int
    cursors: int
    messages: int
    bytes: int
    notes: int
    walks: int


class Stream(Closable):
    """One stream: its log, topics and filters.

    ``log`` is borrowed: close it after the stream; nobody else may append to it meanwhile.
    ``index`` is what batches call the stream.  With ``create=False`` topics that are not declared
    (or in the log already) are refused.  Opening reads the whole log once, to learn its topics.

    Raises:
        UsageError, StorageFailed: the log cannot be read.
        MemoryError: there is none.
    """

    def __init__(
        self, log: Log, *, index: int = 0, topics_max: int = TOPICS_MAX, create: bool = True
    ) -> None:
        handle = ffi.new("hm_stream **")
        check(
            lib.hm_stream_open(log.handle, index, topics_max, create, handle),
            "reading the topics of a log",
        )
        self._handle = handle[0]
        self._log = log
        self._cursors: set[Cursor] = set()  # also those that nobody else remembers
        self._status = ffi.new("hm_stream_status *")

    @property
    def handle(self) -> Any:
        """The ``hm_stream *``.

        Raises:
            Closed: after :meth:`close`.
        """
        if self._handle is None:
            raise Closed("the stream is closed")
        return self._handle

    @property
    def log(self) -> Log:
        """The log it was made of."""
        return self._log

    def declare(self, topic: str | bytes) -> int:
        """Add a topic, also where creation is off; returns its index in the table.

        Raises:
            InvalidTopic: it is not a legal topic.
            Refused: there are as many topics as there may be.
        """
        name = _encoded(topic)
        code = lib.hm_stream_declare(self.handle, name, len(name))
        return check(code, f"declaring topic {_shown(name)}")

    def topics(self, first: int, count: int) -> list[TopicInfo]:
        """At most ``count`` topics from index ``first`` on, in the order of their first message."""
        infos = ffi.new("hm_topic_info[]", count)
        names = _new_raw("uint8_t[]", count * lib.HM_TOPIC_MAX)
        used = ffi.new("uint64_t *")
        found = lib.hm_stream_topics(self.handle, first, infos, count, names, len(names), used)
        text = ffi.buffer(names, used[0])[:]
        return [
            TopicInfo(text[at : at + size].decode(errors="replace"), last, messages)
            for at, size, last, messages in _INFO.iter_unpack(ffi.buffer(infos, found * _INFO.size))
        ]

    def open_cursor(
        self,
        filter: str | bytes,
        *,
        prefix: bool = False,
        batch_id: int = 0,
        start: Start = Start.LATEST,
        value: int = 0,
    ) -> Cursor:
        """A cursor over the topics that ``filter`` wants: a pattern, or with ``prefix`` the
        beginning of a name.

        ``value``: the sequence or time of ``Start.SEQUENCE`` and ``Start.TIME``.  A sequence that
        is kept no more begins with a gap; one beyond the tail begins at the tail.

        Raises:
            InvalidTopic: not a legal pattern.
            Refused: the stream has as many filters as it may.
        """
        text = _encoded(filter)
        kind = lib.HM_FILTER_PREFIX if prefix else lib.HM_FILTER_PATTERN
        handle = ffi.new("hm_cursor **")
        code = lib.hm_cursor_open(
            self.handle, kind, text, len(text), batch_id, start, value, handle
        )
        check(code, f"subscribing to {_shown(text)}")
        cursor = Cursor(self, handle[0])
        self._cursors.add(cursor)
        return cursor

    def want(self, filter: str | bytes, *, prefix: bool = False) -> int:
        """Count a filter in before its cursors are opened; returns its number, for
        :meth:`wanted` and :meth:`unwant`.

        A cursor is opened at once where the filter was wanted before and :meth:`sweep` has matched
        all topics with it; otherwise that is done by :meth:`open_cursor`, for all topics in one go.

        Raises:
            InvalidTopic: not a legal pattern.
            Refused: the stream has as many filters as it may.
        """
        text = _encoded(filter)
        kind = lib.HM_FILTER_PREFIX if prefix else lib.HM_FILTER_PATTERN
        number = lib.hm_stream_want(self.handle, kind, text, len(text))
        check(number, f"subscribing to {_shown(text)}")
        return int(number)

    def wanted(self, number: int) -> bool:
        """Whether all topics have been matched with a filter that is wanted."""
        return bool(lib.hm_stream_wanted(self.handle, number))

    def unwant(self, number: int) -> None:
        """Undo one :meth:`want`."""
        lib.hm_stream_unwant(self.handle, number)

    def sweep(self, budget: int) -> bool:
        """Match topics with filters that have come and gone: about ``budget`` names, some 20 ns
        each; True if there is more to do."""
        return bool(lib.hm_stream_sweep(self.handle, budget))

    def hold(self) -> None:
        """Before the first append: show cursors only what :meth:`show` says; the log is a window."""
        lib.hm_stream_hold(self.handle)

    def show(self, position: int, sequence: int) -> None:
        """Let cursors have what stands before ``position``, of sequences under ``sequence``: it is
        stored."""
        lib.hm_stream_show(self.handle, position, sequence)

    def learn(self, position: int, sequence: int, frames: memoryview) -> int:
        """Before the first append, of a stream that is held: enter the topics of stored frames.

        Returns how many bytes of them are sound.
        """
        with ffi.from_buffer("uint8_t[]", frames) as data:
            code = lib.hm_stream_learn(self.handle, position, sequence, data, len(data))
        return check(code, "learning topics")

    def wake(self) -> None:
        """Have connections know of the cursors that may have something since the last call."""
        lib.hm_stream_wake(self.handle)

    def mark_progress(self) -> None:
        """Have every cursor that selects say what it has covered, as soon as it is caught up."""
        lib.hm_stream_mark_progress(self.handle)

    def status(self) -> StreamStatus:
        """Counters, now."""
        lib.hm_stream_status_get(self.handle, self._status)
        return StreamStatus(*(getattr(self._status, name) for name in StreamStatus._fields))

    def close(self) -> None:
        """Close the stream's cursors and the stream; deliveries live on.  Idempotent."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        for cursor in list(self._cursors):
            cursor.close()
        lib.hm_stream_close(handle)


class Cursor:
    """How far one subscription has read in one stream; made by :meth:`Stream.open_cursor`."""

    def __init__(self, stream: Stream, handle: Any) -> None:
        """For :meth:`Stream.open_cursor`: take over an ``hm_cursor *``."""
        self.stream = stream
        self._handle = handle

    @property
    def handle(self) -> Any:
        """The ``hm_cursor *``.

        Raises:
            Closed: after :meth:`close`.
        """
        if self._handle is None:
            raise Closed("the cursor is closed")
        return self._handle

    @property
    def closed(self) -> bool:
        """Whether it was given up."""
        return self._handle is None

    def collect(self, topics: int) -> bool:
        """Have a cursor that was opened at ``Start.LATEST`` begin as at ``Start.LAST``: look at
        up to ``topics`` more topics, before the first batch; True if some are left."""
        code = lib.hm_cursor_collect(self.handle, topics)
        check(code, "looking for the newest message of each topic")
        return bool(code)

    @property
    def through(self) -> int:
        """The last sequence it has covered: ``through`` of its last batch; before that, where it
        stands."""
        return int(lib.hm_cursor_through(self.handle))

    def seek(self, position: int, sequence: int, *, wanted: int = 0, reason: int = 0) -> None:
        """Before the first batch: begin at ``position``, which has ``sequence``; a gap from
        ``wanted`` to it if that is less."""
        lib.hm_cursor_seek(self.handle, position, sequence, wanted, reason)

    def hold(self, time_ns: int) -> None:
        """Before the first batch: deliver nothing that is appended before ``time_ns``."""
        lib.hm_cursor_hold(self.handle, time_ns)

    def close(self) -> None:
        """Give up the cursor.  Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self.stream._cursors.discard(self)
            lib.hm_cursor_close(handle)


class Router:
    """Which stream takes a topic.  The first stream added takes what no other claims."""

    def __init__(self) -> None:
        self._handle = lib.hm_router_new()
        if self._handle == ffi.NULL:
            raise MemoryError("no memory for a router")
        self._streams: list[Stream] = []
        self._ingests: set[Ingest] = set()

    @property
    def handle(self) -> Any:
        """The ``hm_router *``.

        Raises:
            Closed: after :meth:`close`.
        """
        if self._handle is None:
            raise Closed("the router is closed")
        return self._handle

    def set_clock(self, offset_ns: int) -> None:
        """Stamp what native code appends with ``CLOCK_BOOTTIME`` plus ``offset_ns``."""
        lib.hm_router_set_clock(self.handle, offset_ns)

    def add(self, stream: Stream) -> int:
        """Add a stream (borrowed) and return its index: 0, 1, ...

        Raises:
            Refused: there are :data:`STREAMS_MAX` already.
        """
        index = check(lib.hm_router_add(self.handle, stream.handle), "adding a stream")
        self._streams.append(stream)
        return index

    def claim(self, index: int, pattern: str | bytes) -> None:
        """Let stream ``index`` take the topics of ``pattern``.

        Raises:
            InvalidTopic: not a legal pattern.
            Refused: it overlaps what another stream claims.
            UsageError: there is no such stream.
        """
        text = _encoded(pattern)
        code = lib.hm_router_claim(self.handle, index, text, len(text))
        check(code, f"claiming {_shown(text)} for stream {index}")

    def route(self, topic: str | bytes) -> int:
        """The index of the stream that takes ``topic``.

        Raises:
            InvalidTopic: not a legal topic.
        """
        name = _encoded(topic)
        code = lib.hm_router_route(self.handle, name, len(name))
        return check(code, f"routing topic {_shown(name)}")

    def close(self) -> None:
        """Close the ingests that are left, and the router; the streams are their owner's.
        Idempotent."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        for ingest in list(self._ingests):
            ingest.close()
        lib.hm_router_free(handle)
        self._streams.clear()


class Ingest:
    """The inbound side of one connection: takes batches frame by frame, hands control frames
    out."""

    def __init__(self, router: Router, message_max: int = MESSAGE_MAX) -> None:
        self._handle = lib.hm_ingest_new(router.handle, message_max)
        if self._handle == ffi.NULL:
            raise MemoryError("no memory for an ingest")
        self._router = router
        router._ingests.add(self)
        self._feed = ffi.new("hm_feed *")
        self._last = ffi.new("uint64_t *")
        self._touched = ffi.new("hm_touched[]", 16)

    @property
    def handle(self) -> Any:
        """The ``hm_ingest *``.

        Raises:
            Closed: after :meth:`close`.
        """
        if self._handle is None:
            raise Closed("the ingest is closed")
        return self._handle

    def open(self, number: int, publisher: bytes, older: bytes | None = None) -> int:
        """Open publisher ``number``, or after a refusal open it again; returns the last sequence
        that any stream has of it.

        ``publisher``: its 16-byte id; all zero: no publisher in particular, whose messages are
        never duplicates.  ``older``: another id; what the streams have of that counts as this one's.

        Raises:
            Refused: :data:`PUBLISHERS_MAX` are open.
        """
        for one in (publisher, publisher if older is None else older):
            if len(one) != PUBLISHER_BYTES:
                raise UsageError(f"a publisher id has {PUBLISHER_BYTES} bytes, not {len(one)}")
        code = lib.hm_ingest_open(self.handle, number, publisher, self._last)
        check(code, f"opening publisher {number}")
        if older is not None:
            code = lib.hm_ingest_inherit(self.handle, number, older, self._last)
            check(code, f"opening publisher {number}")
        return int(self._last[0])

    def close_publisher(self, number: int) -> None:
        """Forget publisher ``number``; collect :meth:`touched` before.

        Raises:
            MalformedInput: it is not open.
        """
        code = lib.hm_ingest_close_publisher(self.handle, number)
        check(code, f"closing publisher {number}")

    def refuse(self, number: int) -> None:
        """Skip what comes of publisher ``number`` until it is opened again.

        Raises:
            MalformedInput: it is not open.
        """
        check(lib.hm_ingest_refuse(self.handle, number), f"refusing publisher {number}")

    def restrict(self, patterns: Iterable[str]) -> None:
        """Let only the topics of ``patterns`` be published from now on; called once, at most.

        Raises:
            InvalidTopic: one of them is not legal.
            Refused: there are too many.
        """
        check(lib.hm_ingest_restrict(self.handle), "restricting a connection")
        for pattern in patterns:
            name = encoded(pattern, "pattern")
            check(lib.hm_ingest_allow(self.handle, name, len(name)), f"granting {pattern!r}")

    def feed(self, data: Any, size: int, now_ns: int) -> Any:
        """Take what can be taken of ``size`` bytes at ``data`` (a ``uint8_t *`` of cffi); see
        ``hm_ingest_feed``.

        Returns this ingest's ``hm_feed``, which the next call overwrites: ``consumed`` bytes are
        done with; ``kind`` says why it came back (:class:`Feed`).  Nothing of ``data`` is referred
        to afterwards.
        """
        lib.hm_ingest_feed(self.handle, data, size, now_ns, self._feed)
        return self._feed

    def touched(self) -> list[tuple[int, int, int]]:
        """(publisher number, through, bit set of its streams) of each that made progress since the
        last call."""
        found: list[tuple[int, int, int]] = []
        touched = self._touched
        while True:
            count = lib.hm_ingest_touched(self.handle, touched, len(touched))
            for i in range(count):
                item = touched[i]
                found.append((item.publisher, item.through, item.streams))
            if count < len(touched):
                return found

    def close(self) -> None:
        """Forget the connection.  Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._router._ingests.discard(self)
            lib.hm_ingest_free(handle)


def _encoded(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _shown(name: bytes) -> str:
    return repr(name.decode(errors="backslashreplace"))
