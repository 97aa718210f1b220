"""Every exception Hermes raises, split by whose fault it is.  Imports nothing.

::

    HermesError
    ├── UsageError (ValueError)       the caller's: what was passed cannot work
    │   ├── WrongType (TypeError)     an argument of a type that the call does not take
    │   ├── InvalidTopic              not a legal topic or pattern
    │   ├── InvalidUrl                not a URL, or one with an unknown option
    │   ├── InvalidConfig             a configuration with an unknown key or an impossible value
    │   ├── MessageTooLarge           over the limit the broker stated
    │   ├── Closed                    used after close()
    │   └── Forked                    used in a child of the process that made it
    ├── Timeout (TimeoutError)        the deadline passed; what was begun is stated in the message
    ├── WouldBlock                    no room or nothing there right now; nothing was done
    ├── PeerError                     the other side's
    │   ├── MalformedInput            bytes that are not a sound frame, or not at this point
    │   ├── VersionRefused            no protocol version in common
    │   ├── AuthenticationFailed      the identity or credentials were not accepted
    │   ├── Refused                   the broker said no to one request; the connection lives
    │   └── GapDetected               messages are missing: which ones is stated
    ├── SystemFault                   the machine's: network, disk, memory
    │   ├── ConnectFailed (ConnectionError)    nobody answered at that address
    │   ├── ConnectionLost (ConnectionError)   an established connection broke
    │   ├── AddressInUse              another socket holds the address
    │   ├── StorageFailed             an I/O error: the log refuses appends until it is opened again
    │   ├── StorageFull               the disk, or the log's bound, is full
    │   ├── StorageDamaged            what is stored cannot be read
    │   └── DirectoryLocked           another broker owns the data directory
    └── PluginError                   a plugin's
        ├── PluginNotFound            nothing installed goes by that name
        └── PluginFailed              a chosen plugin failed

Every error can be pickled and copied with its attributes: a worker process can raise it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer to import than all of this
    from typing import Any


class HermesError(Exception):
    """Base of everything Hermes raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The usual way calls the class with `args` alone, which lacks what some demand by keyword.
        return _unpickled, (type(self), self.args, dict(self.__dict__))


def _unpickled(
    kind: type[HermesError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> HermesError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def restated(error: HermesError, text: str) -> HermesError:
    """An error of the same kind and with the same attributes that says ``text``."""
    return _unpickled(type(error), (text,), dict(error.__dict__))


class UsageError(HermesError, ValueError):
    """An argument cannot work, or a call comes at the wrong time."""


class WrongType(UsageError, TypeError):
    """An argument has a type that the call does not take."""


class InvalidTopic(UsageError):
    """A text is not a legal topic or pattern."""


class InvalidUrl(UsageError):
    """A text is not a URL, or has an unknown or ill-typed option."""


class InvalidConfig(UsageError):
    """A configuration with an unknown key or an impossible value."""


class MessageTooLarge(UsageError):
    """A message is over the limit that the broker stated."""


class Closed(UsageError):
    """An object was used after its ``close()``."""


class Forked(UsageError):
    """An object was used in a child of the process that made it: a connection has one owner."""


class Timeout(HermesError, TimeoutError):
    """The deadline passed first."""

    def __init__(
        self,
        message: str = "",
        *,
        taken: int = 0,
        sequence: int | None = None,
        queued: int | None = None,
    ) -> None:
        super().__init__(message)
        self.taken = taken
        """Messages of the call that the publisher took: they are sent as soon as possible, and must
        not be published again.  For ``send``: whether its one message was taken."""
        self.sequence = sequence
        """The publisher's sequence of the last message of the call that was taken; None: none was."""
        self.queued = queued
        """Messages of the publisher that are not acknowledged; None: the call sends none."""


class WouldBlock(HermesError):
    """No room, or nothing there, right now; nothing was done."""


class PeerError(HermesError):
    """The other side broke the protocol or said no."""


class MalformedInput(PeerError):
    """Bytes that are not a sound frame, or not one that may stand at this point."""

    def __init__(self, message: str, *, code: str = "malformed", offset: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        """The protocol's name of the error, as in docs/wire-protocol.md."""
        self.offset = offset
        """Offset of the error in the input, bytes; None if that has no meaning."""


class VersionRefused(PeerError):
    """No protocol version in common."""


class AuthenticationFailed(PeerError):
    """The identity or the credentials were not accepted, or do not allow this."""


class Refused(PeerError):
    """The broker said no to one request; the connection lives."""

    def __init__(self, message: str, *, code: str = "refused") -> None:
        super().__init__(message)
        self.code = code
        """The protocol's name of the error, as in docs/wire-protocol.md."""


class GapDetected(PeerError):
    """Messages are missing from a subscription: which ones is stated."""

    def __init__(
        self, message: str, *, stream: str, first: int, last: int, reason: str = "retention"
    ) -> None:
        super().__init__(message)
        self.stream = stream
        self.first = first
        """First missing sequence."""
        self.last = last
        """Last missing sequence, inclusive."""
        self.reason = reason
        """``retention``, ``damaged`` or ``epoch``, as in docs/wire-protocol.md."""

    @property
    def position(self) -> int:
        """The position behind the gap: the subscription goes on with the sequence after it.  After
        ``epoch`` that is ``first``, which another message has now."""
        return self.first - 1 if self.reason == "epoch" else self.last


class SystemFault(HermesError):
    """The machine's: network, disk, memory."""


class ConnectFailed(SystemFault, ConnectionError):
    """No broker answered at that address."""


class ConnectionLost(SystemFault, ConnectionError):
    """An established connection broke."""


class AddressInUse(SystemFault):
    """Another socket holds the address."""


class StorageFailed(SystemFault):
    """An I/O error: the log refuses appends until it is opened again."""


class StorageFull(SystemFault):
    """The disk, or the log's own bound, is full."""


class StorageDamaged(SystemFault):
    """Stored bytes cannot be read."""


class DirectoryLocked(SystemFault):
    """Another broker owns the data directory."""


class PluginError(HermesError):
    """A plugin could not be used."""


class PluginNotFound(PluginError):
    """Nothing installed goes by that name."""


class PluginFailed(PluginError):
    """A chosen plugin failed; the message says why, and what to do about it."""
