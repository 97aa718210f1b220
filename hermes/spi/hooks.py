"""The plugin contract: every hook Hermes calls, and nothing else.

Two kinds of hooks.  What a plugin *has* it announces from its module, which an entry point in one
of the groups ``hermes.transports``, ``hermes.storages`` and ``hermes.plugins`` names: the
``hermes_register_...`` hooks, called once, when a URL, a flag or a configuration has named it.
What a plugin *does* in a broker it implements on the object that :meth:`Plugin.activate` returns:
all other hooks.

Threads: a broker's hooks are called in the thread that runs its loop, one at a time; while one
runs, nothing is served.  A hook therefore never waits for the network, a lock that others hold for
long, or a sleep; reading a small local file is fine, anything longer belongs into a thread of the
plugin's own.  None is ever called per message or per batch.

Ownership: what a hook is handed is immutable or a copy, and may be kept.

Errors: each hook says what an exception does.  What is logged about one is where it was raised and
of which type, never its text, which might hold a secret.

``docs/hooks.md`` has a section for each hook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec
import pluggy

from hermes.errors import UsageError

if TYPE_CHECKING:
    from hermes.spi.storage import StorageBackend
    from hermes.spi.transport import Peer, Transport

API_VERSION = 1
"""Version of this contract, for plugins that a broker activates; :data:`hermes.spi.transport.API_VERSION`
and :data:`hermes.spi.storage.API_VERSION` count for theirs.

A new hook, a new optional argument of one, a new field with a default: the version stays, and what
was written before goes on working.  It changes when a plugin would have to be changed; what is to
go is deprecated for at least one minor release before, with a warning that names the successor.
Each version is refused by a Hermes that speaks another, with a sentence that says which side to
upgrade.
"""

hookspec = pluggy.HookspecMarker("hermes")
hookimpl = pluggy.HookimplMarker("hermes")

EVERYTHING = (">",)
"""The patterns of a grant that restricts nothing."""


@dataclass(frozen=True, slots=True)
class ListenerInfo:
    """One bound listener."""

    url: str
    """Where it listens, port 0 replaced by the port the system chose."""
    transport: str
    """Its scheme."""


@dataclass(frozen=True, slots=True)
class BrokerInfo:
    """The broker that activated a plugin."""

    broker_id: bytes
    """16 bytes, new at each start."""
    server: str
    """Name and version, as clients are told."""
    listeners: tuple[ListenerInfo, ...]
    storage: str
    """URL of its storage."""
    streams: tuple[str, ...]
    """Names, ``default`` first."""


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One client that has been welcomed."""

    number: int
    """Counts connections since the broker started; as in ``hermes stats``."""
    peer: Peer
    """The other end, as the transport knows it."""
    client: str
    """The client's own claim: name and version of its library, and its own name."""
    identity: str | None
    """The client's identity: proven if the broker authenticates, else claimed; None: no claim."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer of an authentication plugin that believes the peer: who it is, and what it may do.

    What is not granted is refused: the defaults allow nothing but to connect.

    Raises:
        UsageError: an argument has the wrong type: a str where a tuple of patterns is meant, say.
        InvalidTopic: one of the patterns is not legal.
    """

    identity: str
    """Name of the user; ``hermes stats`` shows it, and publisher ids and durable names belong to
    it."""
    publish: tuple[str, ...] = ()
    """Patterns of the topics it may publish to."""
    subscribe: tuple[str, ...] = ()
    """Patterns it may subscribe to, or to parts of."""
    inspect: bool = False
    """Whether it may ask for the broker's counters, configuration and durable names, which concern
    other clients."""
    forget: bool = False
    """True if the client may delete any durable name with its positions, also names of other users."""

    def __post_init__(self) -> None:
        from hermes.native.patterns import check_given_pattern  # deferred: needs the native core

        if not isinstance(self.identity, str) or not self.identity:
            raise UsageError(f"Grant: identity is a str that is not empty, not {self.identity!r}")
        for name in ("publish", "subscribe"):
            _check_strs("Grant", name, getattr(self, name))
        for name in ("inspect", "forget"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"Grant: {name} is a bool, not {getattr(self, name)!r}")
        for pattern in (*self.publish, *self.subscribe):
            check_given_pattern(pattern)


@dataclass(frozen=True, slots=True)
class Denial:
    """The answer of an authentication plugin that turns the peer away."""

    reason: str = "identity and credentials were not believed"
    """Told to the peer: say nothing that helps somebody who guesses."""

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str):
            raise UsageError(f"Denial: reason is a str, not {type(self.reason).__name__}")


def _check_strs(owner: str, name: str, value: object) -> None:
    """Raises UsageError unless ``value`` is a tuple or list of str: a bare str would be taken for its
    characters."""
    if not isinstance(value, tuple | list) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{owner}: {name} is a tuple of str, not {value!r}")


class RegisterTransport(Protocol):
    """Announces a transport."""

    def __call__(self, scheme: str, factory: Callable[[], Transport]) -> None:
        """``factory`` makes the transport that serves ``scheme``."""


class RegisterStorage(Protocol):
    """Announces a storage backend."""

    def __call__(self, scheme: str, factory: Callable[[], StorageBackend]) -> None:
        """``factory`` makes the backend that serves ``scheme``."""


class RegisterPlugin(Protocol):
    """Announces a plugin that a broker can activate."""

    def __call__(self, name: str, factory: Callable[[], Plugin]) -> None:
        """``factory`` makes the plugin that a configuration calls ``name``."""


@runtime_checkable
class Plugin(Protocol):
    """A plugin that ``hermes serve --plugin NAME`` activates.  Made by a factory without
    arguments."""

    api_version: int
    """The :data:`API_VERSION` it was written for."""

    @property
    def options(self) -> type[msgspec.Struct]:
        """Its options; each has a docstring, and is documented."""

    def probe(self) -> str | None:
        """None if it can work on this machine, else why not and what to do.  Fast; touches no
        network."""

    def activate(self, options: Any) -> object:
        """An object whose methods marked with :data:`hookimpl` are its hooks in one broker.

        ``options`` is an instance of :attr:`options`.  Called once per broker, before it opens its
        storage and listens, in the thread that opens it; it may block.

        Raises:
            UsageError: an option has a value that cannot be.
            PluginFailed: it cannot work; the message says why, and what to do.
        """


@hookspec
def hermes_register_transports(register: RegisterTransport) -> None:
    """Call ``register(scheme, factory)`` once per URL scheme the plugin serves.

    ``factory`` takes no argument; it may import what it needs then, so that installing a plugin
    costs nothing until a URL names it.  Each scheme needs an entry point of its name.  Registering
    a scheme twice raises :exc:`ValueError`.
    """


@hookspec
def hermes_register_storages(register: RegisterStorage) -> None:
    """Call ``register(scheme, factory)`` once per storage scheme the plugin serves; as for
    transports."""


@hookspec
def hermes_register_plugins(register: RegisterPlugin) -> None:
    """Call ``register(name, factory)`` once per plugin that a broker's configuration may name; as
    for transports."""


@hookspec
def hermes_broker_started(broker: BrokerInfo) -> None:
    """Every listener is bound; no client has been served yet.

    An exception keeps the broker from starting.
    """


@hookspec
def hermes_broker_stopping(broker: BrokerInfo) -> None:
    """The broker takes no new connections and hands over what it owes.

    Not called when it is forced to end, or did not start.  An exception is logged.
    """


@hookspec
def hermes_broker_stopped() -> None:
    """The last call of all: listeners and storage are closed.  Give up what was acquired.

    Called once for each plugin that was activated, even if the broker did not start.  An exception
    is logged.
    """


@hookspec
def hermes_connection_opened(connection: ConnectionInfo) -> None:
    """A client has been welcomed.

    At most as many are open as ``limits.connections`` says.  An exception is logged.
    """


@hookspec
def hermes_connection_closed(connection: ConnectionInfo, error: Exception | None) -> None:
    """A client that was welcomed has gone; ``error`` is what broke the connection, None if it ended
    in order.

    An exception is logged.  When the broker stops, it is called for the clients that are left.
    """


@hookspec(firstresult=True)
def hermes_authenticate(
    peer: Peer, identity: str | None, credentials: Mapping[str, str]
) -> Grant | Denial | None:
    """Decide who a peer is, and what it may do.

    ``identity`` is who it claims to be; ``credentials`` what it offers as proof: ``password`` if
    it came with the URL.  ``peer.identity`` is what the transport has proven already.  Compare
    secrets with :func:`hmac.compare_digest`, and log none.

    The plugins that implement this are asked in the order of the configuration until one answers.
    None: it has no opinion.  It fails closed: where all have none, where one raises, or gives
    another answer than these three, the peer is refused.
    """


@hookspec
def hermes_metrics(metrics: Mapping[str, Any]) -> None:
    """The broker's counters, every ``metrics`` of the configuration (10 s): what ``hermes stats``
    shows, without single clients.

    Hand them to a thread if sending them takes time.  An exception is logged.
    """
