"""A kernel that echoes: what a transport meets in its tests instead of a broker.

It checks every call of the transport.  A call that breaks the contract in
:mod:`hermes.spi.transport` is recorded in :attr:`EchoKernel.violations`, in a sentence that says
what was called and what the contract says; memory that the transport has released is overwritten,
so that a transport that still sends it sends garbage; so is the input buffer, before each use.

Knows no transport.  Needs nothing but Hermes.
"""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hermes.errors import Refused
from hermes.spi.transport import Flushed, Medium, Peer

POISON = 0xDD
"""Byte that released memory and stale input are overwritten with."""
BUFFER_SIZE = 65_536
"""Bytes of the input buffer, which all connections share."""
IN_FLIGHT_MAX = 4 << 20
"""Bytes advanced over and not released at which a connection gives no more output, as in the
broker."""
VIOLATIONS_MAX = 20
"""Violations kept: the first ones say it all."""


class Block:
    """A piece of output in memory of its own."""

    __slots__ = ("advanced", "memory", "released")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.memory = bytearray(data)
        self.advanced = 0
        """Bytes the medium has taken."""
        self.released = 0
        """Bytes the medium needs no more."""

    @property
    def held(self) -> bool:
        """Whether somebody still has a view of it: then its size cannot be changed."""
        try:
            self.memory.append(0)
        except BufferError:
            return True
        self.memory.pop()
        return False


class Defect(RuntimeError):
    """An unexpected error in the broker, on purpose: no transport raises it."""


class EchoConnection:
    """Sends back what it receives, and closes its end when the peer has closed its own.

    It is a :class:`hermes.spi.transport.Connection`; tests look at the rest.
    """

    def __init__(self, kernel: EchoKernel, owner: object, peer: Peer) -> None:
        self.attachment: Any = None
        self.peer = peer
        self.owner = owner
        self.closing = False
        self.paused = False
        self.lost: list[Exception | None] = []
        """Arguments of :meth:`connection_lost`, one for each call."""
        self.ended = False
        """Whether the peer has closed its end."""
        self.received = 0
        """Bytes of input."""
        self.received_crc = 0
        """CRC-32 of the input."""
        self.received_paused = 0
        """Bytes of input that came while :attr:`paused` was set."""
        self.defects: tuple[str, ...] = ()
        """Methods that raise :class:`Defect` when the transport calls them."""
        self.kept = bytearray()
        """The input, if the kernel keeps it."""
        self.advanced = 0
        self.released = 0
        self.source: Iterator[bytes] | None = None
        """Source of more output when there is none."""
        self.on_input: Callable[[], None] | None = None
        """Called after each report of input."""
        self.retired: deque[Block] = deque(maxlen=64)
        """The blocks released last."""
        self._kernel = kernel
        self._waiting: deque[Block] = deque()  # not advanced over in full
        self._pending_size = 0
        self._flight: deque[Block] = deque()  # advanced over, not released in full
        self._pulled = 0  # bytes handed out and not advanced over
        self._marked = False
        self._owned = True

    # What tests call.

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Have ``data`` sent behind what waits already."""
        if len(data):
            self._waiting.append(Block(data))
            self._pending_size += len(data)
        self.mark()

    def close(self) -> None:
        """Have the medium closed as soon as what waits has been handed over."""
        self.closing = True
        self.mark()

    def mark(self) -> None:
        """Have the transport told that there may be output."""
        if not self._marked and not self.lost:
            self._marked = True
            self._kernel.woken.append(self)

    @property
    def pending(self) -> int:
        """Bytes of output that the medium has not taken."""
        return self._pending_size

    @property
    def in_flight(self) -> int:
        """Bytes the medium has taken and not released."""
        return self.advanced - self.released

    # What the transport calls.

    def get_buffer(self, sizehint: int) -> memoryview:
        """A writable buffer, the same one for all connections."""
        self._called("get_buffer")
        return self._kernel.lend(self)

    def buffer_updated(self, nbytes: int) -> None:
        """Input stands in the buffer."""
        self._called("buffer_updated")
        view = self._kernel.borrowed(self, nbytes)
        self._take(view)

    def data_received(self, data: memoryview) -> None:
        """Input stands in the transport's own memory."""
        self._called("data_received")
        self._take(data)

    def serve(self, medium: Medium, watch_fd: int) -> int:
        """The offer is declined."""
        self._called("serve")
        return 0

    def attach(self, fd: int, sends: int = 0) -> bool:
        """The offer is declined."""
        self._called("attach")
        return False

    def flush(self) -> Flushed:
        """Nothing is attached."""
        self._called("flush")
        self._violated("flush() was called although attach() said no")
        return Flushed.ALL

    def eof_received(self) -> None:
        """Close our end once everything is sent."""
        self._called("eof_received")
        if self.ended:
            self._violated("eof_received was called twice for one connection")
        self.ended = True
        self.close()

    def output(self, limit: int) -> list[memoryview]:
        """Views of what waits, none longer than the kernel's ``view_max``."""
        self._called("output")
        if limit <= 0:
            self._violated(f"output({limit}): the limit is a number of bytes, 1 or more")
        self._marked = False
        if self.in_flight >= self._kernel.in_flight_max:
            return []
        self._refill(limit)
        views = list(self._views(limit))
        self._pulled = max(self._pulled, sum(map(len, views)))
        self.paused = self._pending_size > self._kernel.pending_max
        return views

    def advance(self, nbytes: int) -> None:
        """The medium has taken so much."""
        self._called("advance")
        if not 0 <= nbytes <= self._pulled:
            self._violated(
                f"advance({nbytes}), but output() has handed out {self._pulled} bytes that were "
                "not advanced over: the contract is released <= advanced <= pulled"
            )
            return
        self.advanced += nbytes
        self._pulled -= nbytes
        self._pending_size -= nbytes
        while nbytes:
            block = self._waiting[0]
            if not block.advanced:
                self._flight.append(block)
            part = min(nbytes, len(block.memory) - block.advanced)
            block.advanced += part
            nbytes -= part
            if block.advanced == len(block.memory):
                self._waiting.popleft()

    def release(self, nbytes: int) -> None:
        """The medium needs so much no more: overwrite it."""
        self._called("release")
        if not 0 <= nbytes <= self.in_flight:
            self._violated(
                f"release({nbytes}), but {self.in_flight} bytes were advanced over and not "
                "released: the contract is released <= advanced <= pulled"
            )
            return
        self.released += nbytes
        while nbytes:
            block = self._flight[0]
            part = min(nbytes, block.advanced - block.released)
            end = block.released + part
            block.memory[block.released : end] = bytes([POISON]) * part
            block.released = end
            nbytes -= part
            if end == len(block.memory):
                self.retired.append(self._flight.popleft())

    def connection_lost(self, error: Exception | None) -> None:
        """The medium is gone."""
        if self.lost:
            self._violated(
                f"connection_lost({error!r}) after connection_lost({self.lost[0]!r}): it is called "
                "once"
            )
        if error is not None and not isinstance(error, Exception):
            self._violated(f"connection_lost({error!r}): expected an exception or None")
        self.lost.append(error)
        self._check_thread("connection_lost")

    # Inside.

    def _take(self, data: memoryview) -> None:
        size = len(data)
        if not size:
            self._violated("input of 0 bytes was reported; the end of input is eof_received()")
        if self.ended:
            self._violated("input came after eof_received(): the peer had said it sends no more")
        self.received += size
        self.received_crc = zlib.crc32(data, self.received_crc)
        if self.paused:
            self.received_paused += size
        if self._kernel.keep:
            self.kept += data
        if self._kernel.echo:
            self.send(data)
        self.paused = self._pending_size > self._kernel.pending_max
        if self.on_input is not None:
            self.on_input()

    def _refill(self, limit: int) -> None:
        while self.source is not None and self._pending_size < limit:
            data = next(self.source, None)
            if data is None:
                self.source = None
            else:
                self._waiting.append(Block(data))
                self._pending_size += len(data)

    def _views(self, limit: int) -> Iterator[memoryview]:
        view_max = self._kernel.view_max
        for block in self._waiting:
            for start in range(block.advanced, len(block.memory), view_max):
                end = min(start + view_max, len(block.memory), start + limit)
                yield memoryview(block.memory)[start:end]
                limit -= end - start
                if limit <= 0:
                    return

    def _called(self, name: str) -> None:
        if self.lost:
            self._violated(f"{name}() was called after connection_lost(): nothing may be")
        self._check_thread(name)
        if name in self.defects:
            raise Defect(f"{name}() raises in this test")

    def _check_thread(self, name: str) -> None:
        if threading.get_ident() != self._kernel.thread:
            self._violated(
                f"{name}() was called by another thread: a connection belongs to the thread that "
                "polls the agent"
            )

    def _violated(self, what: str) -> None:
        self._kernel.violated(f"{self.peer.address}: {what}")


class EchoKernel:
    """Makes echo connections and keeps all it ever made; a :class:`hermes.spi.transport.Kernel`.

    Belongs to the thread that makes it, which is the one that polls the agent.
    """

    def __init__(self) -> None:
        self.connections: list[EchoConnection] = []
        self.woken: list[EchoConnection] = []
        self.violations: list[str] = []
        """Violations of the contract by the transport, a sentence each."""
        self.echo = True
        """Whether input is sent back."""
        self.keep = False
        """Whether connections keep their input."""
        self.authenticates = False
        self.connections_max = 1_000_000
        """Connections made before further peers are refused."""
        self.pending_max = 1 << 30
        """Bytes of output that may wait before a connection is paused."""
        self.in_flight_max = IN_FLIGHT_MAX
        self.view_max = 1 << 30
        """Bytes of one view of output."""
        self.thread = threading.get_ident()
        self._buffer = bytearray(BUFFER_SIZE)
        self._fresh = bytes([POISON]) * BUFFER_SIZE
        self._borrower: EchoConnection | None = None

    @property
    def live(self) -> list[EchoConnection]:
        """The connections that are not lost."""
        return [connection for connection in self.connections if not connection.lost]

    # What the agent calls.

    def connect(self, owner: object, peer: Peer) -> EchoConnection:
        """A new connection, unless there are enough."""
        if len(self.connections) >= self.connections_max:
            raise Refused("this kernel takes no more connections", code="limit")
        self.connections.append(EchoConnection(self, owner, peer))
        return self.connections[-1]

    def ready(self, owner: object) -> Iterable[EchoConnection]:
        """Connections of ``owner`` that have output, or are to be closed, since the last call."""
        woken, self.woken = self.woken, []
        theirs = [connection for connection in woken if connection.owner is not owner]
        if theirs:
            self.violated("ready() was called with another owner than connect()")
        return [connection for connection in woken if not connection.lost]

    # What connections call.

    def lend(self, connection: EchoConnection) -> memoryview:
        """The input buffer, with garbage in it."""
        self._buffer[:] = self._fresh
        self._borrower = connection
        return memoryview(self._buffer)

    def borrowed(self, connection: EchoConnection, nbytes: int) -> memoryview:
        """Bytes that were written to the input buffer."""
        if self._borrower is not connection:
            self.violated(
                "buffer_updated() without get_buffer() of the same connection just before: the "
                "buffer is shared, fill and report it before asking for another"
            )
        self._borrower = None
        if not 0 <= nbytes <= BUFFER_SIZE:
            self.violated(f"buffer_updated({nbytes}) for a buffer of {BUFFER_SIZE} bytes")
        return memoryview(self._buffer)[: max(0, nbytes)]

    def violated(self, what: str) -> None:
        """Note that the contract was broken."""
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(what)
