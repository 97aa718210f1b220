"""What exists per message as a Python object.  The GIL is held throughout every call but
:meth:`Source.receive`."""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sized
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, final

from hermes.native.frames import Buffer

class _Inbox(Protocol):
    buffer: bytearray
    start: int
    end: int

class _Feed(Protocol):
    ready: deque[Message]
    segment: Any

REFUSED: int
"""What :meth:`Sender.send` returns for a message not taken: this minus the core's number."""

def bind(address: int, /) -> None:
    """Use the core whose table of functions stands at ``address``; before anything else.

    Raises:
        ImportError: the table is older than this module.
    """

def envelope(
    buffer: Buffer, start: int, end: int, control_max: int, batch_max: int, /
) -> tuple[int, int, int, int, int, int, int, int]:
    """What stands at ``buffer[start]``, as the fields of ``hm_envelope``.

    Raises:
        ValueError: ``[start, end)`` is not within the buffer.
    """

def acknowledge(buffer: Buffer, start: int, end: int, senders: dict[int, Sender], /) -> int:
    """Settle the acknowledgements to ``senders`` that stand at ``buffer[start]``: of those to one in a
    row the last alone.  Returns where something else begins, which may be an acknowledgement of what
    was never sent.

    Raises:
        ValueError: ``[start, end)`` is not within the buffer.
    """

@final
class Message:
    """One message: read-only, a value that can be compared, hashed, copied and pickled.

    A subscription returns them; a program may make its own, for its tests say.
    """

    __match_args__: ClassVar[tuple[str, ...]] = (
        "topic",
        "payload",
        "stream",
        "sequence",
        "timestamp_ns",
    )

    def __new__(
        cls,
        topic: str,
        payload: Buffer = b"",
        stream: str = "default",
        sequence: int = 0,
        timestamp_ns: int = 0,
    ) -> Message:
        """``payload`` is copied, unless it is bytes.

        Raises:
            UsageError: an argument is none; the message names it.
        """

    def __hash__(self) -> int: ...
    @property
    def topic(self) -> str: ...
    @property
    def stream(self) -> str:
        """Name of the stream it is in."""
    @property
    def sequence(self) -> int:
        """Its place in the stream."""
    @property
    def timestamp_ns(self) -> int:
        """The publisher's clock when it was published, ns since 1970: a claim."""
    @property
    def payload(self) -> bytes: ...

@final
class Sender:
    """A publisher's way into its outbox."""

    def __new__(cls, outbox_address: int, owner: object, topic: bytes | None, /) -> Sender:
        """``owner`` keeps the outbox alive as long as the sender lives."""

    def send(
        self,
        payload: Buffer,
        topic: bytes | None = None,
        timestamp_ns: int = 0,
        timeout: float | None = None,
        /,
    ) -> int:
        """Put one message into the outbox and do what its linger asks for; ``timeout`` is looked at,
        not used.

        Returns its sequence; negated, if the caller has to see to it that the flusher is drained;
        ``REFUSED`` minus the core's number (``HM_EFULL``, ...) if nothing was taken.
        ``topic`` is not checked for being legal.

        Raises:
            TypeError, ValueError, OverflowError, BufferError: an argument is none; nothing was done.
        """

@final
class Source:
    """Where a connection is read from: a stream socket, or the ``hm_medium`` at an address."""

    def __new__(cls, fd: int, medium_address: int | None, /) -> Source:
        """One of the two: ``fd`` is -1 where it is a medium, which stays there as long as anybody
        may be in a call."""

    def receive(self, inbox: _Inbox, spin_ns: int, timeout_ns: int, /) -> int:
        """Fill ``inbox.buffer`` from ``inbox.end`` on, and move ``inbox.end``: how many bytes, 0 at
        the end, -HM_EEMPTY if none came or there is no room.

        Tries for ``spin_ns``, then sleeps until something is there or ``timeout_ns`` (negative:
        none) have passed since the call; without the GIL.

        Raises:
            OSError: the medium failed.
            ValueError: ``inbox.end`` is not within the buffer.
        """

@final
class Incoming:
    """Messages for ``async for``: those that are there cost no coroutine each."""

    def __new__(
        cls,
        ready: deque[Message],
        owner: object,
        wait: Callable[[], Coroutine[Any, Any, Message]],
        /,
    ) -> Incoming:
        """From ``ready``; where that is empty from ``wait()``, and also when ``owner._closed``."""

    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Awaitable[Message]: ...

@final
class Lock:
    """A lock that no exception leaves taken, wherever it strikes.

    Has to be held in the ``with`` statement that takes it: ``with lock.hold(ns) or refuse():``.
    """

    def __new__(
        cls,
        tidy: Callable[[], object] = ...,
        pending: Sized = ...,
        clean: tuple[type[BaseException], ...] = ...,
        /,
    ) -> Self:
        """``tidy`` is called with the lock held, before :meth:`hold` returns, when something is
        ``pending`` or the lock is :attr:`torn`.  ``clean``: exceptions that leave what is guarded
        as it should be."""

    def hold(self, timeout_ns: int, again: bool = False, /) -> Hold | None:
        """Take it, waiting ``timeout_ns`` at most (negative: for ever).

        None: another thread had it, or this one has it, and does not want it ``again``.
        """

    def away(self, guard: object, spare: bool, /) -> Pass:
        """Let it go until the end of the block.

        ``guard`` is kept alive meanwhile.  ``spare``: an exception that ends the block has touched
        nothing that is guarded.
        """

    @property
    def mine(self) -> bool:
        """Whether this thread has it."""
    @property
    def free(self) -> bool:
        """Whether no other thread has it."""
    torn: bool
    """Whether an exception that is not clean has ended a hold since this was set to False."""

@final
class Hold:
    """A lock while it is held."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

@final
class Pass:
    """A lock that its holder has let go of for a while."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

def together(*calls: Any) -> None:
    """Call functions that are written in C, each followed by its tuple of arguments, one after the
    other: an interrupt comes before the first or after the last."""

@final
class Reader:
    """Turns the frames of batches into objects; remembers the topics it has seen."""

    def __new__(cls, message_max: int, /) -> Reader: ...
    def messages(
        self, buffer: Buffer, start: int, stop: int, stream: str, after: int, through: int, /
    ) -> list[Message] | int:
        """The frames in ``buffer[start:stop]`` as messages that hold copies of their payloads.

        Every frame is checked wholly, sequences must rise within (after, through]; else the core's
        number of what is wrong, negative.
        """
    def direct(
        self,
        buffer: Buffer,
        start: int,
        end: int,
        id: int,
        coverage: dict[int, int],
        names: dict[int, str],
        senders: dict[int, Sender],
        feed: _Feed = ...,
        inbox: _Inbox = ...,
        segment: Callable[..., object] = ...,
        /,
    ) -> tuple[list[Message], int, int, str, int, int] | None:
        """If a whole, sound batch of subscription ``id`` stands at ``buffer[start]``, behind
        acknowledgements to ``senders`` (by publisher id) at most, and goes on where ``coverage``
        (subscription << 32 | stream index -> last sequence covered) says: ``(messages, start of
        its frames, stop, stream name, after, through)``; ``coverage`` is moved on and what is
        acknowledged is freed.  With ``feed``, ``inbox`` and ``segment`` the messages are in
        ``feed.ready``, ``feed.segment`` is their segment and ``inbox.start`` is moved on when this
        returns.  Else None, and everything stands where it stood: it is for others
        to say what is wrong, if anything is.
        """
    def index(
        self, buffer: Buffer, start: int, stop: int, after: int, through: int, /
    ) -> bytes | int:
        """The same checks; an array of ``hm_slice``: 32 bytes each, offsets relative to ``start``."""
