"""Moves messages between ZeroMQ sockets and frames: in C, many a call, or else in a Python loop.

Both pumps take and give the same, and map messages with the same C functions.  Knows no door.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import Any, Protocol

import zmq

from hermes.native.api import api_address
from hermes.native.frames import BATCH_HEADER_SIZE, HEADER_SIZE, decode_batch, encode_batch
from hermes_zmq._native import ffi, lib
from hermes_zmq.libzmq import library

MORE: int = lib.HZ_MORE
EMPTY: int = lib.HZ_EMPTY
BLOCKED: int = lib.HZ_BLOCKED
ROOM: int = lib.HZ_ROOM
BATCH: int = lib.HZ_BATCH
CONTROL: int = lib.HZ_CONTROL
DAMAGED: int = lib.HZ_DAMAGED
FAILED: int = lib.HZ_FAILED

FORMS: dict[str, int] = {
    "multipart": lib.HZ_MULTIPART,
    "single": lib.HZ_SINGLE,
    "bare": lib.HZ_BARE,
}
PARTS_MAX: int = lib.HZ_PARTS_MAX
BUFFER_SIZE = 1 << 20
"""Bytes a batch is collected in; a message that needs more gets a buffer of its own."""
BATCH_BYTES = 256 * 1024
"""Bytes after which a batch is handed on: it fits the second-level cache."""
BATCH_MESSAGES = 4096
"""Messages likewise, so that tiny ones do not hold up the other doors."""
UNLIMITED = 0xFFFFFFFF
"""Bytes of payload that go out: what is in the log has been admitted."""
MESSAGE_LIMIT = 1 << 31
"""Bytes, far over any broker's own: its batches are as large as it makes them."""


class Pump(Protocol):
    """One socket's pump."""

    native: bool

    def receive(self, publisher: int, after: int, now_ns: int) -> Any:
        """Take messages into :attr:`view`; see ``hz_received``."""

    def send(self, view: memoryview, offset: int) -> Any:
        """Send the messages of a connection's output; see ``hz_sent``."""

    def send_frames(self, view: memoryview) -> Any:
        """Send the messages of bare frames; see ``hz_sent``."""

    @property
    def view(self) -> memoryview:
        """Memory at whose beginning the result of the last ``receive`` stands, until the next."""


class Map:
    """How messages and frames become each other; see ``hz_map.h``."""

    def __init__(
        self,
        *,
        split: bool = True,
        form: str = "multipart",
        topic: str = "",
        message_max: int = UNLIMITED,
    ) -> None:
        name = topic.encode()
        handle = lib.hz_map_new(api_address(), split, FORMS[form], name, len(name), message_max)
        if handle == ffi.NULL:
            raise MemoryError("no memory for a ZeroMQ door, or a core that is older than it")
        self.handle = ffi.gc(handle, lib.hz_map_free)
        self._message = ffi.new("hz_message *")
        self._odd = ffi.new("int *")
        self.odd = False
        """Whether headers of ours in the last frame made no sense."""

    def limit_words(self, words_max: int) -> None:
        """Take at most so many different first words of single parts for topics; see
        ``hz_map_words``."""
        lib.hz_map_words(self.handle, words_max)

    @property
    def words(self) -> int:
        """Different first words that were taken for topics so far."""
        return int(lib.hz_map_words_taken(self.handle))

    @property
    def spared(self) -> int:
        """Single parts carried whole because their first word was one too many."""
        return int(lib.hz_map_spared(self.handle))

    def frame(self, parts: list[Any], sequence: int, timestamp_ns: int) -> bytes | None:
        """The frame of a message's parts; None: it is over the limit."""
        count = len(parts)
        with contextlib.ExitStack() as lent:
            held = [lent.enter_context(ffi.from_buffer("uint8_t[]", part)) for part in parts]
            array = ffi.new("hz_part[]", [(part, len(part)) for part in held])
            room = lib.hz_map_bound(array, count)
            out = ffi.new("uint8_t[]", room)
            size = lib.hz_map_in(self.handle, array, count, out, room, sequence, timestamp_ns)
        return None if size < 0 else bytes(ffi.buffer(out, size))

    def parts(self, frame: Any) -> tuple[list[bytes], int]:
        """The parts of the first frame of a buffer, and its size; -HM_E* if it is not sound."""
        message = self._message
        with ffi.from_buffer("uint8_t[]", frame) as data:
            size = lib.hz_map_out(self.handle, data, len(data), message, self._odd)
            if size < 0:
                return [], int(size)
            self.odd = bool(self._odd[0])
            parts = [
                bytes(ffi.buffer(message.parts[i].data, message.parts[i].size))
                if message.parts[i].size
                else b""
                for i in range(message.count)
            ]
        if message.single:
            parts[:2] = [parts[0] + b" " + parts[1]]
        return parts, int(size)


class NativePump:
    """Moves messages in C with the GIL released."""

    native = True

    def __init__(self, found: Any, socket: zmq.Socket[Any], mapping: Map) -> None:
        handle = lib.hz_pump_new(found, mapping.handle)
        if handle == ffi.NULL:
            raise MemoryError("no memory for a ZeroMQ door")
        self._handle = ffi.gc(handle, lib.hz_pump_free)
        self._map = mapping  # the handle refers to it
        self._socket = socket.underlying
        self._received = ffi.new("hz_received *")
        self._sent = ffi.new("hz_sent *")
        self._room = 0
        self._resize(0)

    @property
    def view(self) -> memoryview:
        """The bytes received last."""
        return self._view

    def receive(self, publisher: int, after: int, now_ns: int) -> Any:
        """One batch of what is there."""
        result = self._received
        if self._room:
            self._resize(0)
        while True:
            lib.hz_pump_receive(
                self._handle, self._socket, self._out, len(self._view), BATCH_BYTES,
                BATCH_MESSAGES, publisher, after, now_ns, result,
            )  # fmt: skip
            if result.why != ROOM or result.size:
                return result
            self._resize(result.needed)

    def send(self, view: memoryview, offset: int) -> Any:
        """As much as goes."""
        with ffi.from_buffer("uint8_t[]", view) as data:
            size = len(data) - offset
            lib.hz_pump_send(self._handle, self._socket, data + offset, size, self._sent)
        return self._sent

    def send_frames(self, view: memoryview) -> Any:
        """As much as goes."""
        with ffi.from_buffer("uint8_t[]", view) as data:
            lib.hz_pump_send_frames(self._handle, self._socket, data, len(data), self._sent)
        return self._sent

    def _resize(self, room: int) -> None:
        """A larger buffer, for one message; 0: the usual one again."""
        self._room = room
        size = max(room, BUFFER_SIZE)
        memory = bytearray(size)
        self._view = memoryview(memory)
        self._out = ffi.from_buffer("uint8_t[]", memory)


class _Result:
    """``hz_received`` or ``hz_sent`` of the Python pump."""

    def __init__(self) -> None:
        self.size = self.needed = self.messages = self.oversized = self.crowded = 0
        self.consumed = self.after = self.through = self.bytes = self.stream = self.odd = 0
        self.error = self.events = 0
        self.why = MORE


class PythonPump:
    """Moves messages one by one: what is left where the loaded libzmq cannot be called from C."""

    native = False

    def __init__(self, socket: zmq.Socket[Any], mapping: Map) -> None:
        self._socket = socket
        self._map = mapping
        self._view = memoryview(b"")
        self._left = 0  # bytes of the batch being sent
        self._batch: Any = None

    @property
    def view(self) -> memoryview:
        """The bytes received last."""
        return self._view

    def receive(self, publisher: int, after: int, now_ns: int) -> _Result:
        """One batch of what is there."""
        result = _Result()
        frames: list[bytes] = []
        size = 0
        seen = 0
        while seen < BATCH_MESSAGES and size < BATCH_BYTES:
            try:
                parts = self._socket.recv_multipart(zmq.DONTWAIT, copy=True)
            except zmq.Again:
                result.why = EMPTY
                break
            except zmq.ZMQError as error:
                result.why, result.error = FAILED, error.errno or 0
                break
            seen += 1
            if len(parts) > PARTS_MAX:
                result.crowded += 1
                continue
            frame = self._map.frame(parts, after + len(frames) + 1, now_ns)
            if frame is None:
                result.oversized += 1
                continue
            frames.append(frame)
            size += len(frame)
        if frames:
            joined = b"".join(frames)
            header = encode_batch(
                id=publisher,
                after=after,
                through=after + len(frames),
                frames_size=len(joined),
                timestamp_ns=now_ns,
            )
            self._view = memoryview(header + joined)
            result.size = len(self._view)
            result.messages = len(frames)
        result.events = self._events()
        if result.why == EMPTY and result.events & zmq.POLLIN:
            result.why = MORE
        return result

    def send(self, view: memoryview, offset: int) -> _Result:
        """As much as goes."""
        result = _Result()
        at = offset
        while at < len(view) and result.why == MORE:
            if self._left == 0:
                at = self._begin(view, at, result)
            else:
                stop = min(len(view), at + self._left)
                done = self._range(view[at:stop], result)
                at += done
                self._left -= done
                if self._left == 0 and result.why == MORE:
                    result.why = BATCH
        if self._batch is not None:
            result.stream, result.after = self._batch.stream, self._batch.after
            result.through = self._batch.through
        result.consumed = at - offset
        if result.why != BLOCKED:  # or it might take the news of room without using it
            result.events = self._events()
        return result

    def send_frames(self, view: memoryview) -> _Result:
        """As much as goes."""
        result = _Result()
        result.consumed = self._range(view, result)
        if result.why != BLOCKED:
            result.events = self._events()
        return result

    def _begin(self, view: memoryview, at: int, result: _Result) -> int:
        if view[at + 5] != 2 or len(view) - at < BATCH_HEADER_SIZE:  # not a BATCH
            result.why = CONTROL
            return at
        self._batch = decode_batch(view[at : at + BATCH_HEADER_SIZE], message_max=MESSAGE_LIMIT)
        self._left = self._batch.frames_size
        if self._left == 0:
            result.why = BATCH
        return at + BATCH_HEADER_SIZE

    def _range(self, view: memoryview, result: _Result) -> int:
        at = 0
        while at < len(view):
            parts, size = self._map.parts(view[at:])
            if size < 0:
                result.why, result.error = DAMAGED, size
                return len(view)
            problem = self._send(parts)
            if problem == zmq.EAGAIN:
                result.events = self._events()
                problem = self._send(parts)
            if problem:
                result.why = BLOCKED if problem == zmq.EAGAIN else FAILED
                result.error = problem
                return at
            result.messages += 1
            result.odd += self._map.odd
            result.bytes += sum(map(len, parts[len(parts) > 1 :]))
            at += size
        return at

    def _send(self, parts: list[bytes]) -> int:
        """0, or the errno: then nothing of it will arrive; see ``send_parts`` in ``hz_pump.c``."""
        problem = 0
        for number, part in enumerate(parts, 1):
            more = zmq.SNDMORE if number < len(parts) else 0
            try:
                self._socket.send(part, zmq.DONTWAIT | more)
            except zmq.ZMQError as error:
                problem = problem or error.errno or zmq.EAGAIN
                if number == 1:
                    break
        return problem

    def _events(self) -> int:
        return int(self._socket.getsockopt(zmq.EVENTS))


def make_pump(socket: zmq.Socket[Any], mapping: Map) -> Pump:
    """The fast pump if the loaded libzmq can be called from C; else the other, with a warning."""
    found = library()
    if found is not None:
        return NativePump(found, socket, mapping)
    warnings.warn(
        f"the libzmq {zmq.zmq_version()} that pyzmq has loaded cannot be called from C: messages "
        "are moved one by one, at about half the rate; reinstall pyzmq from a wheel "
        "(pip install --force-reinstall pyzmq)",
        RuntimeWarning,
        stacklevel=2,
    )
    return PythonPump(socket, mapping)


__all__ = [
    "BATCH",
    "BATCH_BYTES",
    "BATCH_HEADER_SIZE",
    "BLOCKED",
    "CONTROL",
    "DAMAGED",
    "EMPTY",
    "FAILED",
    "HEADER_SIZE",
    "MORE",
    "Map",
    "NativePump",
    "Pump",
    "PythonPump",
    "make_pump",
]
