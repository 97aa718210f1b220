"""The broker's streams: opened from the configuration and from what the storage holds.

Knows which topics a stream claims; not who reads it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import cast

from hermes.broker.backed import Backed
from hermes.broker.config import RETENTION, STREAMS_MAX, Config, StreamConfig
from hermes.broker.epochs import Epochs, EpochStore
from hermes.errors import InvalidConfig, InvalidTopic
from hermes.native.frames import STORED_MAX
from hermes.native.log import Log, LogReport
from hermes.native.patterns import check_pattern, check_topic, covers, match, overlap
from hermes.native.stream import Cursor, Router, Start, Stream
from hermes.spi.storage import LogSettings, Progress, Storage

LOG = logging.getLogger("hermes.broker")

FRAME_OVERHEAD = 8192
"""Bytes of a segment that no payload can use: its header, a frame's header, a long topic,
padding."""
MESSAGE_MAX = STORED_MAX
"""Bytes of one payload, whatever is configured: half of what the native core appends at once, which
is a fact it relies on."""
MISPLACED_MAX = 1_000
"""Topics of a stream that now belong elsewhere and are remembered by name; with more, the stream is
simply read.  Each Subscribe looks at all of them: half a millisecond."""
TOPICS_WARN = 0.8
"""Share of the topics that a stream may have at which a warning is logged."""
TOPICS_PAGE = 4096
"""Topics read from a table at a time."""


class ServedStream:
    """One stream: its log, its topics and what it claims."""

    def __init__(
        self,
        index: int,
        config: StreamConfig,
        *,
        log: Log | Backed,
        native: Stream,
        settings: LogSettings,
        topics_max: int,
    ) -> None:
        self.index = index
        self.topics_max = topics_max
        self.filling = False
        """Most of the topics it may have are there, and a warning said so."""
        self.name = config.name
        self.config = config
        self.settings = settings
        self.log = log
        self.backed = log if isinstance(log, Backed) else None
        """Set where the log is not native memory."""
        self.native = native
        self.patterns = [pattern.encode() for pattern in config.patterns]
        self.misplaced: list[bytes] | None = []
        """Topics with messages here that are routed elsewhere by now; None: too many to
        remember."""
        self.gaps = 0
        """Gaps reported to subscribers."""
        self.epochs = Epochs()
        """Which life of the log its sequences are of."""
        self.synced = 0
        """Sequences up to here are on disk, as far as we were told."""
        self.sync_wanted = False
        self.syncing = False
        self.marked_sequence = 0
        """The newest message when progress was last told."""

    @property
    def last_sequence(self) -> int:
        """The newest message's that subscribers may have, 0 in an empty stream."""
        return int(self.log.status().next_sequence) - 1

    @property
    def appended_sequence(self) -> int:
        """The newest message's that was taken."""
        return int(self.native.log.status().next_sequence) - 1

    def reached(self, *, durable: bool) -> int:
        """Sequences up to here may be acknowledged."""
        if durable:
            return self.synced
        return self.appended_sequence if self.backed is None else self.backed.last_stored

    def open_cursor(
        self, filter: bytes, *, prefix: bool, batch_id: int, start: Start, value: int
    ) -> Cursor:
        """As :meth:`hermes.native.stream.Stream.open_cursor`."""
        elsewhere = self.backed is not None and start not in (Start.LATEST, Start.LAST)
        cursor = self.native.open_cursor(
            filter,
            prefix=prefix,
            batch_id=batch_id,
            start=Start.LATEST if elsewhere else start,
            value=0 if elsewhere else value,
        )
        if elsewhere and self.backed is not None:
            try:
                self.backed.seek(cursor, start, value)
            except BaseException:
                cursor.close()
                raise
        return cursor

    def mark_progress(self) -> None:
        """Have subscriptions that are caught up say what they have covered, if there are new messages
        since the last call."""
        last = self.last_sequence
        if last != self.marked_sequence:
            self.marked_sequence = last
            self.native.mark_progress()

    def warn_of_topics(self) -> None:
        """Warn, once, that the stream will soon take no new topics."""
        topics = self.native.status().topics
        if not self.filling and topics >= TOPICS_WARN * self.topics_max:
            self.filling = True
            LOG.warning(
                "stream %r has %d of the %d topics that it may have: then messages of new topics are "
                "refused; look for publishers that make topics of times or counters "
                "(`hermes topics`), or raise limits.topics",
                self.name,
                topics,
                self.topics_max,
            )

    def holds(self, pattern: bytes, *, prefix: bool) -> bool:
        """Whether messages that the filter wants may stand here although they are routed elsewhere
        now."""
        if self.misplaced is None:
            return True
        if prefix:
            return any(topic.startswith(pattern) for topic in self.misplaced)
        return any(match(pattern, topic) for topic in self.misplaced)

    def close(self) -> None:
        """Close the stream, then its log, which syncs."""
        self.native.close()
        self.log.close()


class Streams:
    """Every stream of the broker, by index; index 0 is ``default``."""

    def __init__(self, config: Config, storage: Storage) -> None:
        """Check the configured streams; none is opened, and nothing is made in the storage.

        Raises:
            InvalidConfig: there are too many, or claims overlap, or a topic or pattern is not legal.
        """
        self._config = config
        self._storage = storage
        self._stream_configs = self._wanted(config, storage)
        _check_claims(self._stream_configs)
        self.router = Router()
        self._streams: list[ServedStream] = []
        self._names: dict[str, ServedStream] = {}
        self.opened = False
        """All of them are open; a Subscribe that comes before waits."""
        self.moved = 0
        """Bit set of the streams appended to since they were last looked at."""
        self.backed: list[Backed] = []
        """The logs that are not native memory."""

    def open(
        self, progress: Progress | None, given_out: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """Open every stream.  ``given_out``: stream name to the last sequence that is known to have been
        delivered.

        Raises:
            StorageFailed, StorageFull, StorageDamaged: one cannot be opened; none is open.
        """
        try:
            for wanted in self._stream_configs:
                settings = replace(
                    settings_for(wanted, self._config), given_out=given_out.get(wanted.name, 0)
                )
                self._open(wanted, self._config, self._storage, progress, settings)
            nexts = {stream.name: stream.last_sequence + 1 for stream in self._streams}
            for name, epochs in EpochStore(self._storage).begin(nexts, time.time_ns()).items():
                self._names[name].epochs = epochs
            for stream in self._streams:
                for pattern in stream.config.patterns:
                    self.router.claim(stream.index, pattern)
            if len(self._streams) > 1:
                for stream in self._streams:
                    stream.misplaced = self._misplaced(stream)
            self.backed = [stream.backed for stream in self._streams if stream.backed is not None]
            self.opened = True
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[ServedStream]:
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)

    def __getitem__(self, index: int) -> ServedStream:
        return self._streams[index]

    def of_bits(self, bits: int) -> Iterator[ServedStream]:
        """The streams whose indexes are in the bit set."""
        while bits:
            lowest = bits & -bits
            bits ^= lowest
            yield self._streams[lowest.bit_length() - 1]

    def by_name(self, name: str) -> ServedStream | None:
        """The stream of that name, if there is one."""
        return self._names.get(name)

    def met_by(self, pattern: bytes, *, prefix: bool) -> list[ServedStream]:
        """The streams in which the filter can meet a message, now or later, by index.

        Raises:
            InvalidTopic: not a legal pattern.
        """
        if len(self._streams) == 1:
            return [self._streams[0]]
        if prefix:
            return list(self._streams)
        claimed = any(
            covers(claim, pattern) for stream in self._streams[1:] for claim in stream.patterns
        )
        return [
            stream
            for stream in self._streams
            if (stream.index == 0 and not claimed)
            or any(overlap(claim, pattern) for claim in stream.patterns)
            or stream.holds(pattern, prefix=False)
        ]

    def close(self) -> None:
        """Close every stream and log.  Idempotent."""
        streams, self._streams = self._streams, []
        self._names.clear()
        problem: Exception | None = None
        self.router.close()
        for stream in streams:
            try:
                stream.close()
            except Exception as error:  # the others must be synced and closed all the same
                problem = problem or error
        if problem is not None:
            raise problem

    def _wanted(self, config: Config, storage: Storage) -> list[StreamConfig]:
        """The configured streams, and those of the storage that no configuration names any more."""
        wanted = config.all_streams()
        known = {stream.name for stream in wanted}
        wanted += [StreamConfig(name=name) for name in storage.streams() if name not in known]
        if len(wanted) > STREAMS_MAX:
            raise InvalidConfig(
                f"{storage.url} holds streams that the configuration does not name: with them "
                "there are "
                f"{len(wanted)}, over the limit of {STREAMS_MAX}"
            )
        return wanted

    def _open(
        self,
        wanted: StreamConfig,
        config: Config,
        storage: Storage,
        progress: Progress | None,
        settings: LogSettings,
    ) -> None:
        log = storage.open_stream(wanted.name, settings, progress)
        if isinstance(log, Log):
            report_losses(wanted.name, log.report)
        topics_max = wanted.topics or config.limits.topics
        backed = None
        try:
            if not isinstance(log, Log):
                backed = Backed(wanted.name, log, settings)
            opened = Stream(
                backed.window if backed is not None else cast("Log", log),
                index=len(self._streams),
                topics_max=topics_max,
                create=wanted.create_topics,
            )
            if backed is not None:
                backed.begin(opened, progress)
        except BaseException:
            (backed or log).close()
            raise
        stream = ServedStream(
            len(self._streams),
            wanted,
            log=cast("Log", log) if backed is None else backed,
            native=opened,
            settings=settings,
            topics_max=topics_max,
        )
        self._streams.append(stream)
        self._names[stream.name] = stream
        self.router.add(opened)
        for topic in wanted.declare:
            opened.declare(topic)

    def _misplaced(self, stream: ServedStream) -> list[bytes] | None:
        found: list[bytes] = []
        first = 0
        while topics := stream.native.topics(first, TOPICS_PAGE):
            first += len(topics)
            for topic in topics:
                name = topic.name.encode()
                if topic.last_sequence and self.router.route(name) != stream.index:
                    found.append(name)
            if len(found) > MISPLACED_MAX:
                return None
        return found


def _check_claims(streams: list[StreamConfig]) -> None:
    """Raise InvalidConfig for an illegal topic or pattern, and for claims that overlap."""
    for stream in streams:
        try:
            for topic in stream.declare:
                check_topic(topic)
            for pattern in stream.patterns:
                check_pattern(pattern)
        except InvalidTopic as error:
            raise InvalidConfig(f"stream {stream.name!r}: {error}") from error
    claimed: list[tuple[str, str]] = []
    for stream in streams:
        for pattern in stream.patterns:
            others = [
                f"{claim!r} of stream {name!r}"
                for name, claim in claimed
                if overlap(claim, pattern)
            ]
            if others:
                raise InvalidConfig(
                    f"stream {stream.name!r} claims {pattern!r}, which overlaps "
                    f"{' and '.join(others)}: a topic goes to one stream; narrow one of the patterns"
                )
        claimed += [(stream.name, pattern) for pattern in stream.patterns]


def report_losses(name: str, report: LogReport) -> None:
    """Warn of what opening the log of stream ``name`` found to be lost."""
    if report.missing > report.end_missing:
        LOG.warning(
            "stream %r: %d messages are lost, because its files are damaged: subscribers get a gap "
            "in their place, and hermes log verify says where",
            name,
            report.missing - report.end_missing,
        )
    if report.end_missing:
        LOG.warning(
            "stream %r: the newest %d messages are lost: its files end before it did, or before what "
            "was delivered; subscribers get a gap in their place, and their sequences are not used again",
            name,
            report.end_missing,
        )
    if report.end_damaged:
        LOG.warning(
            "stream %r: a copy of the mark that says where it ended was damaged, and is written "
            "again at the next sync",
            name,
        )


def settings_for(stream: StreamConfig, config: Config) -> LogSettings:
    """Settings of the stream's log."""
    asked = config.retention if stream.retention is None else stream.retention
    retention = RETENTION if asked is None else asked
    segment = stream.segment or config.segment
    return LogSettings(
        segment_bytes=int(segment),
        retention_bytes=int(retention.size),
        retention_ns=int(retention.age_ns),
        message_max=message_max(config),
        retention_asked=asked is not None,
    )


def message_max(config: Config) -> int:
    """Largest payload the broker takes: the configured limit, lowered so that a message fits every
    segment, and one append.

    Raises:
        InvalidConfig: a segment is too small for any message.
    """
    segment = min([config.segment, *(s.segment for s in config.streams if s.segment is not None)])
    room = int(segment) - FRAME_OVERHEAD
    if room <= 0:
        raise InvalidConfig(
            f"a segment of {segment} holds no message: 64KiB is the least that makes sense"
        )
    return min(int(config.limits.message), room, MESSAGE_MAX)
