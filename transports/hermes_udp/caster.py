"""A listener on a multicast address: an ordinary one beside it, and a caster.

The caster is a client within the broker's process (:mod:`hermes.net.gateway`): it subscribes to what is
to be cast, and what it gets goes to the group once, however many receive it.  All else that
subscribers say goes to the ordinary listener, whose address they take from the group's beacons.  The
native engine has the group's stream, repairs and pacing; here output is handed to it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hermes.errors import InvalidUrl, Refused, SystemFault
from hermes.native.envelopes import address_of
from hermes.native.frames import BATCH_HEADER_SIZE
from hermes.native.patterns import check_given_pattern
from hermes.net.addresses import host_port, is_loopback, refuse_path
from hermes.net.gateway import Wire
from hermes.spi.transport import Kernel, Peer
from hermes.spi.units import ByteSize
from hermes.spi.url import Url
from hermes.wire import messages as m
from hermes_udp import groups as _groups
from hermes_udp import options as _options
from hermes_udp.agent import NEVER, UdpAgent
from hermes_udp.groups import Group
from hermes_udp.native import CASTER, ffi, fields, lib
from hermes_udp.options import ListenOptions

LOG = logging.getLogger("hermes.udp")

SUBSCRIPTION = 1
"""The caster's only one, as its connection calls it."""
PULL_BYTES = 262144
"""Bytes of output pulled at once, at most."""
PULLS_PER_PASS = 8
"""Pulls in one poll, so that the sessions beside it have their turn."""
RETRY_NS = 1_000_000_000
"""Pause before a caster whose connection was ended comes back, as another cast."""


@dataclass(frozen=True, slots=True)
class CastPlace:
    """Where a URL wants to cast: checked, nothing opened."""

    url: str
    """As it was given, without a password; for messages."""
    group: Group
    """Its port 0: that of the ordinary listener."""
    source: Any
    """The interface's address, as a socket has it."""
    options: ListenOptions
    identity: str | None = None
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)

    def found_at(self, port: int) -> str:
        """The URL to dial.  On loopback it names the interface, which no route does; what others
        reach the group by is theirs to know."""
        found = f"udp://{host_port((self.group.host, port))}"
        if not is_loopback(self.source):
            return found
        index = self.group.index
        return f"{found}?interface={socket.if_indextoname(index) if index else self.source[0]}"


def place_of(url: Url, group: Group, options: ListenOptions) -> CastPlace:
    """Read what the URL of a multicast listener asks for.

    Raises:
        InvalidUrl: it makes no sense, or others would receive what only this machine may.
    """
    refuse_path(url)
    try:
        check_given_pattern(options.pattern)
    except ValueError as error:
        raise InvalidUrl(f"{url}: {error}") from error
    smallest, largest = int(lib.HU_CAST_RATE_MIN), int(lib.HU_CAST_RATE_MAX)
    if not smallest <= options.rate <= largest:
        raise InvalidUrl(f"{url}: rate is between 64KiB and 12.5GB (bytes a second)")
    if options.rate_min and not smallest <= options.rate_min <= options.rate:
        raise InvalidUrl(f"{url}: rate_min is between 64KiB and rate, or 0: never slower than rate")
    if not lib.HU_HISTORY_MIN <= options.history <= lib.HU_HISTORY_MAX:
        raise InvalidUrl(f"{url}: history is between 64KiB and 1GiB")
    source = _groups.source_of(group, url)
    if not (options.insecure or is_loopback(source)):
        raise InvalidUrl(
            f"{url}: any program that joins the group at {source[0]} can read what is sent to it, "
            "also if the broker authenticates its clients: send through the loopback "
            "(interface=127.0.0.1), or accept this by adding insecure=yes"
        )
    credentials = {} if url.password is None else {"password": url.password}
    return CastPlace(str(url), group, source, options, url.username, credentials)


class Cast:
    """One life of a caster: a connection of the kernel's, and the stream made of its output."""

    def __init__(self, kernel: Kernel, place: CastPlace, owner: object) -> None:
        """Connects and subscribes; ``owner`` is who the kernel tells of output.

        Raises:
            InvalidUrl: the broker does not admit it, or its batches are too large for the history.
            Refused: the broker has no room.
        """
        self._kernel = kernel
        self._place = place
        self._owner = owner
        self.native: Any = None
        self.owed = True
        """The connection may have output."""
        self.failure = ""
        """Why it has ended; empty: it has not."""
        self.gaps = 0
        self._taken = ffi.new("uint32_t *")
        peer = Peer("udp", f"group {place.group.host}", local=False)
        self._wire = Wire(
            kernel,
            owner,
            peer,
            self,
            client="hermes_udp caster",
            identity=place.identity,
            credentials=place.credentials,
        )
        with contextlib.ExitStack() as undo:
            undo.callback(self._wire.close)
            self._begin()
            undo.pop_all()

    def _begin(self) -> None:
        for answer in self._wire.answers():
            self._control(answer)
        welcome = self._wire.welcome
        if welcome is not None:
            self.native = ffi.gc(self._made(welcome.limits.batch_max), lib.hu_caster_free)
            self._wire.say(m.Subscribe(SUBSCRIPTION, self._place.options.pattern))
            self.pump()
        elif not self.failure:
            self.failure = "it did not say Welcome"
        if self.failure:
            raise InvalidUrl(
                f"{self._place.url}: the broker does not admit who casts: {self.failure}; name a "
                "user who may subscribe (udp://USER:TOKEN@...)"
            )

    def _made(self, batch_max: int) -> Any:
        options = self._place.options
        history = 1 << (options.history - 1).bit_length()
        needed = 2 * (batch_max + BATCH_HEADER_SIZE)
        if history < needed:
            least = ByteSize(1 << (needed - 1).bit_length())
            raise InvalidUrl(
                f"{self._place.url}: history holds {ByteSize(history)}, but batches of this broker "
                f"may have {ByteSize(batch_max)} and two must fit: say history={least}, or lower the "
                "broker's limit of a message"
            )
        pattern = options.pattern.encode()
        native = ffi.new("hu_caster_options *")
        native.id = int.from_bytes(os.urandom(8)) | 1
        native.rate = options.rate
        native.rate_min = options.rate_min
        native.history = history
        native.datagram = options.mtu or (
            _options.LOOPBACK_DATAGRAM if is_loopback(self._place.source) else _options.DATAGRAM
        )
        native.unicast = options.repair == "unicast"
        native.pattern_size = len(pattern)
        ffi.memmove(native.pattern, pattern, len(pattern))
        made = lib.hu_caster_new(native, time.monotonic_ns())
        if made == ffi.NULL:
            raise InvalidUrl(
                f"{self._place.url}: no memory for a history of {ByteSize(history)}: say less"
            )
        return made

    def pump(self) -> int:
        """Hand on what the connection has and the rate has room for; an amount of work."""
        for _ in self._kernel.ready(self._owner):
            self.owed = True
        work = 0
        while self.owed and work < PULLS_PER_PASS and not self._wire.over:
            if not lib.hu_caster_room(self.native):
                break
            views = self._wire.connection.output(PULL_BYTES)
            if not views:
                self.owed = False
                break
            taken = self._take(views)
            self._wire.done(taken)
            if not taken:
                break
            work += 1
        return work

    def _take(self, views: Sequence[memoryview]) -> int:
        """Copy views to the stream, but for what is for us alone: how many bytes."""
        taken = 0
        for view in views:
            size, offset = len(view), 0
            while offset < size:
                with address_of(view) as place:
                    fed: int = lib.hu_caster_feed(
                        self.native, place + offset, size - offset, self._taken
                    )
                if fed < 0:
                    self._fail(f"its output makes no sense at byte {offset} (error {-fed})")
                    return 0
                offset += fed
                if self._taken[0]:
                    more = self._take_control(view, offset)
                    if not more:
                        return taken + offset
                    offset += more
                elif not fed:
                    return taken + offset
            taken += size
        return taken

    def _take_control(self, view: memoryview, offset: int) -> int:
        """Take the control frame at ``offset``; returns its size, 0: there is no room for it now, or
        the connection has ended."""
        message, size = self._wire.control(view, offset)
        if isinstance(message, m.Stream | m.Gap):
            if isinstance(message, m.Gap):
                lib.hu_caster_gap(self.native, message.stream, message.last)
            with address_of(view) as place:
                if lib.hu_caster_append(self.native, place + offset, size) < 0:
                    return 0
        self._control(message)
        return 0 if self._wire.over else size

    def _control(self, message: Any) -> None:
        if isinstance(message, m.Stream):
            name = message.name.encode()
            lib.hu_caster_name(self.native, message.index, name, len(name))
        elif isinstance(message, m.Gap):
            self.gaps += 1
            LOG.warning(
                "%s: the sequences %d to %d of stream %r cannot be cast (%s)",
                self._place.url,
                message.first,
                message.last,
                self._wire.streams.get(message.stream, "?"),
                message.reason,
            )
        elif isinstance(message, m.Error):
            self._fail(f"{message.message} [{message.code}]")
        elif isinstance(message, m.Close):
            self._wire.say(m.Close())
            self._wire.close()

    def _fail(self, why: str) -> None:
        self.failure = why
        self._wire.close()

    def close(self) -> None:
        """End the connection.  Idempotent."""
        self._wire.close()


class MulticastAgent(UdpAgent):
    """Serves the sessions of subscribers, and casts to their group; see
    :class:`hermes.spi.transport.Agent` for the contract."""

    def __init__(self, sock: socket.socket, *, place: CastPlace, **options: Any) -> None:
        self._cast: Cast | None = None
        self._owner = object()  # of every cast's connection: sessions are the agent's own
        self._where = place
        port = place.group.port or sock.getsockname()[1]
        head = struct.pack("=H", place.group.family) + struct.pack("!H", port)
        self._group = head + place.group.packed.ljust(16, b"\0")
        self._retry_ns = 0
        self._casts = 0
        self._ended: dict[str, int] = {}
        super().__init__(sock, url=place.found_at(port), **options)
        try:
            self._unicast = f"udp://{host_port(sock.getsockname())}"
            self._begin()
        except Refused as error:
            self.close()
            raise SystemFault(f"{place.url}: cannot cast: {error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def doors(self) -> dict[str, str]:
        """Address of its sessions, for clients that want no group."""
        return {"unicast": self._unicast}

    def counters(self) -> dict[str, int]:
        """The sessions' and, with a prefix, the group's: all casts of this listener together."""
        found = {name: count + self._ended.get(name, 0) for name, count in self._counted().items()}
        return {**super().counters(), **found, "group_casts": self._casts}

    def close(self) -> None:
        """End the cast, say goodbye to every session and close the socket."""
        if self._cast is not None:
            self._cast.close()
        super().close()
        self._cast = None

    def _begin(self) -> None:
        cast = Cast(self._kernel, self._where, self._owner)
        lib.hu_endpoint_cast(self._endpoint, cast.native, self._group)
        self._cast = cast
        self._casts += 1

    def _end(self) -> None:
        """The broker has ended the caster's connection: receivers will find another cast."""
        assert self._cast is not None
        LOG.error("%s: nothing is cast any more: %s", self._where.url, self._cast.failure)
        for name, count in self._counted().items():
            self._ended[name] = self._ended.get(name, 0) + count
        lib.hu_endpoint_cast(self._endpoint, ffi.NULL, ffi.NULL)
        self._cast = None
        self._retry_ns = time.monotonic_ns() + RETRY_NS

    def _counted(self) -> dict[str, int]:
        found = ffi.new("hu_caster_counters *")
        if self._cast is not None:
            lib.hu_caster_count(self._cast.native, found)
        gaps = 0 if self._cast is None else self._cast.gaps
        return {**fields(found, CASTER, "group_"), "group_gaps": gaps}

    def _beside(self) -> int:
        cast = self._cast
        if cast is not None:
            work = cast.pump()
            if cast.failure:
                self._end()
            return work
        if self._retry_ns and time.monotonic_ns() >= self._retry_ns:
            try:
                self._begin()
                self._retry_ns = 0
            except (InvalidUrl, Refused) as error:
                LOG.error("%s: still nothing is cast: %s", self._where.url, error)
                self._retry_ns = time.monotonic_ns() + RETRY_NS
            return 1
        return 0

    def _serve(self, link: Any) -> bool:
        if self._cast is not None and self._cast.owed:
            return False  # what is cast would wait meanwhile
        return super()._serve(link)

    def _due(self) -> int:
        return min(super()._due(), self._retry_ns or NEVER)
