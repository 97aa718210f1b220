"""What exists per message as a Python object.  The GIL is held throughout every call but
:meth:`Source.receive`."""

from typing import ClassVar, final

from hermes.native.frames import Buffer

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

    def receive(self, buffer: bytearray, start: int, spin_ns: int, timeout_ns: int, /) -> int:
        """Fill ``buffer`` from ``start`` on: how many bytes, 0 at the end, -HM_EEMPTY if none came.

        Tries for ``spin_ns``, then sleeps until something is there or ``timeout_ns`` (negative:
        none) have passed since the call; without the GIL.

        Raises:
            OSError: the medium failed.
            ValueError: ``start`` is not within the buffer.
        """

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
        /,
    ) -> tuple[list[Message], int, int, str, int, int] | None:
        """If a whole, sound batch of subscription ``id`` stands at ``buffer[start]``, behind
        acknowledgements to ``senders`` (by publisher id) at most, and goes on where ``coverage``
        (subscription << 32 | stream index -> last sequence covered) says: ``(messages, start of
        its frames, stop, stream name, after, through)``; ``coverage`` is moved on and what is
        acknowledged is freed.  Else None, and everything stands where it stood: it is for others
        to say what is wrong, if anything is.
        """
    def index(
        self, buffer: Buffer, start: int, stop: int, after: int, through: int, /
    ) -> bytes | int:
        """The same checks; an array of ``hm_slice``: 32 bytes each, offsets relative to ``start``."""
