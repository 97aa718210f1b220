"""The synchronous client, as users call it, and nothing more.

What it shares with its publishers and subscriptions is a :mod:`~hermes.client.connection`: that has
bytes moved (:mod:`~hermes.client.pump`) and comes back when it is lost.  What is asked for over it is
in :mod:`~hermes.client.requests`.  Sending a single message takes no lock at all: see
:mod:`hermes.client.publisher`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from hermes.client import requests
from hermes.client.connection import Connection
from hermes.client.publisher import Publisher
from hermes.client.pump import NS_PER_S
from hermes.client.starts import StartPoint, start_of
from hermes.client.subscription import OnGap, Subscription
from hermes.errors import HermesError, Timeout, UsageError
from hermes.native.outbox import CAPACITY, CAPACITY_MIN
from hermes.native.patterns import check_pattern, check_topic
from hermes.url import Url, parse_url
from hermes.wire.messages import AckLevel

DEFAULT_URL = "tcp://127.0.0.1:7601"
TIMEOUT_S = 5.0
"""Seconds a call waits for the broker, unless told otherwise."""
RECONNECT_S = 30.0
"""Seconds a client tries to connect again after a connection broke."""
QUEUE_MAX = 8 << 20
"""Bytes a subscription may have waiting while others on its client are read; then reading stops."""


def connect(
    url: str | None = None,
    *,
    timeout: float | None = TIMEOUT_S,
    name: str | None = None,
    reconnect: bool | float = True,
    spin: float = 0.0,
    queue_bytes: int = QUEUE_MAX,
    identity: str | None = None,
    credentials: Mapping[str, str] | None = None,
) -> Client:
    """Connect to a broker.

    ``url`` defaults to the environment's ``HERMES_URL``, then to ``tcp://127.0.0.1:7601``.
    ``timeout``: seconds that calls wait for the broker; None: for ever.  ``name``: shown by
    ``hermes stats``.  ``reconnect``: seconds to go on trying after a connection broke; True: 30;
    False: not at all.  ``spin``: seconds to try reading before a thread that waits for messages is
    put to sleep: saves the wake-up, burns a core meanwhile.  ``queue_bytes``: what a subscription
    may have waiting while others on this client are read.  ``identity`` and ``credentials``: who
    we say we are, and what proves it, for a broker that asks; as in ``tcp://NAME:PASSWORD@HOST``,
    where the password is the credential ``password``.  They are never logged.

    Raises:
        ConnectFailed: nobody answered there.
        InvalidUrl: the URL makes no sense.
        AuthenticationFailed, VersionRefused, Refused: the broker does not want us.
        Timeout: somebody answered, but not in time.
    """
    bound = RECONNECT_S if reconnect is True else float(reconnect)
    return Client(
        Connection(
            parse_url(url or os.environ.get("HERMES_URL") or DEFAULT_URL),
            timeout=timeout,
            name=name,
            reconnect_s=bound,
            spin_ns=int(spin * NS_PER_S),
            queue_bytes=queue_bytes,
            identity=identity,
            credentials=credentials,
        )
    )


class Client:
    """A connection to a broker, shared by its publishers and subscriptions; see :func:`connect`.

    Any thread may use it, and everything made from it.  A forked child may not: it gets
    :exc:`Forked`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def publisher(
        self,
        topic: str | None = None,
        *,
        ack: AckLevel = "appended",
        linger: float | None = None,
        window: int = CAPACITY,
        publisher_id: bytes | None = None,
        timeout: float | None = None,
    ) -> Publisher:
        """Open a publisher.

        ``topic``: what its messages carry unless told otherwise.  ``ack``: what is waited for
        before a message is forgotten: ``none``, ``appended`` (it is in the log) or ``durable`` (on
        disk).  ``linger``: seconds a message may wait for others to share a system call; None: it
        goes out at once.  ``window``: bytes that may be unacknowledged.  ``publisher_id``: 16 bytes
        that name the publisher across connections and processes: messages go on behind the last
        one the broker has of it.

        Raises:
            InvalidTopic: the topic is not legal.
            Refused: the broker cannot give this acknowledgement, or not one publisher more.
        """
        connection = self._connection
        connection.check()
        name = None if topic is None else _encoded_topic(topic)
        linger_ns = 0 if linger is None else round(linger * NS_PER_S)
        if linger_ns < 0:
            raise UsageError(f"linger is a time in seconds, not {linger}")
        if window < CAPACITY_MIN:
            raise UsageError(f"window has {CAPACITY_MIN} bytes at least, not {window}")
        if publisher_id is not None and len(publisher_id) != 16:
            raise UsageError(f"publisher_id has 16 bytes, not {len(publisher_id)}")
        deadline = connection.deadline(timeout)
        with connection.locked(deadline):
            line = requests.open_line(connection, ack, publisher_id, linger_ns, window, deadline)
        return Publisher(connection, line, name, ack)

    def subscribe(
        self,
        pattern: str,
        *,
        start: StartPoint = "latest",
        durable: str | None = None,
        on_gap: OnGap = "raise",
        timeout: float | None = None,
    ) -> Subscription:
        """Subscribe to the topics that ``pattern`` matches.

        The broker has confirmed when this returns: what is published from then on is seen.
        ``start``: see :data:`~hermes.client.starts.StartPoint`.  ``durable``: name under which the
        broker keeps the position given by :meth:`Subscription.commit`; where there is one, it is
        where the subscription begins.  ``on_gap``: what to do when messages are missing:
        ``raise`` :exc:`GapDetected` (once; the subscription can be read on), ``skip`` them, or call
        a function.

        Raises:
            InvalidTopic: the pattern is not legal.
            Refused: the broker says no; the message says why.
        """
        connection = self._connection
        connection.check()
        check_pattern(pattern)
        point = start_of(start, durable)
        deadline = connection.deadline(timeout)
        with connection.locked(deadline):
            feed = requests.open_feed(connection, pattern, point, durable, deadline)
        return Subscription(connection, feed, on_gap)

    def query(self, what: str, *, timeout: float | None = None, **arguments: str) -> Any:
        """Ask the broker about itself: ``streams``, ``topics``, ``stats``, ``durables`` or
        ``config``.

        Raises:
            Refused: it does not answer that.
        """
        connection = self._connection
        connection.check()
        deadline = connection.deadline(timeout)
        with connection.locked(deadline):
            return requests.query(connection, what, arguments, deadline)

    def streams(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """The broker's streams."""
        found: list[dict[str, Any]] = self.query("streams", timeout=timeout)
        return found

    def topics(
        self,
        pattern: str | None = None,
        *,
        stream: str | None = None,
        timeout: float | None = None,
    ) -> list[dict[str, Any]]:
        """The topics the broker knows, of one pattern and stream or all."""
        arguments = {"pattern": pattern, "stream": stream}
        given = {name: value for name, value in arguments.items() if value is not None}
        found: list[dict[str, Any]] = self.query("topics", timeout=timeout, **given)
        return found

    def durables(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """The durable names under which the broker keeps positions."""
        found: list[dict[str, Any]] = self.query("durables", timeout=timeout)
        return found

    def forget_durable(
        self, name: str, *, identity: str | None = None, timeout: float | None = None
    ) -> bool:
        """Have the broker forget a durable name and its positions; False if it keeps none of it.

        ``identity``: whose name it is, where the broker authenticates; needed if several have it.

        Raises:
            Refused: a subscription commits under it (``durable_in_use``), several identities have
                it (``durable_ambiguous``), or the broker does not let this identity
                (``not_allowed``).
        """
        arguments = {} if identity is None else {"identity": identity}
        found: bool = self.query("forget", timeout=timeout, durable=name, **arguments)
        return found

    def stats(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The broker's counters."""
        found: dict[str, Any] = self.query("stats", timeout=timeout)
        return found

    def ping(self, *, timeout: float | None = None) -> float:
        """Wait for the broker to answer; returns how long it took, seconds."""
        connection = self._connection
        connection.check()
        deadline = connection.deadline(timeout)
        begun = time.perf_counter()
        with connection.locked(deadline):
            requests.round_trip(connection, lambda: False, deadline, "a ping")
        return time.perf_counter() - begun

    @property
    def url(self) -> Url:
        """Where the broker is."""
        return self._connection.url

    @property
    def timeout(self) -> float | None:
        """Seconds that calls wait for the broker, unless told otherwise; None: for ever."""
        return self._connection.timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._connection.timeout = seconds

    @property
    def limits(self) -> dict[str, int]:
        """What the broker accepts: ``message_max`` and others, by name."""
        limits = self._connection.session.limits
        return {name: getattr(limits, name) for name in limits.__struct_fields__}

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._connection.link is not None and not self._connection.closed

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called, or the connection is given up."""
        return self._connection.over

    def close(self, timeout: float | None = None) -> None:
        """End in order: what was published is sent and acknowledged first.  Idempotent.

        Raises:
            Timeout: that took longer than ``timeout`` seconds (the client's own by default); the
                client is closed all the same, and the message says what is not acknowledged.
        """
        self._connection.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(HermesError):  # the error under way says more
            self.close(timeout=0 if issubclass(kind, Timeout) else None)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "connected" if self.connected else "reconnecting"
        return f"<Client of {self.url}, {state}>"


def _encoded_topic(topic: str) -> bytes:
    check_topic(topic)
    return topic.encode()
