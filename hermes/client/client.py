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
from typing import Any, NoReturn, Self

from hermes.base import checks
from hermes.client import requests
from hermes.client.connection import Connection, Settings
from hermes.client.publisher import Publisher
from hermes.client.receiving import OnGap, checked_on_gap
from hermes.client.session import Feed, Line
from hermes.client.starts import StartPoint, start_of
from hermes.client.steps import Steps
from hermes.client.subscription import Subscription
from hermes.errors import HermesError, Timeout, UsageError, WrongType
from hermes.native.outbox import CAPACITY, CAPACITY_MIN, LINGER_MAX_NS
from hermes.native.patterns import check_given_pattern, check_given_topic
from hermes.spi.url import Url, parse_url
from hermes.wire.messages import NAME_MAX, PUBLISHER_ID_SIZE, AckLevel, Start

DEFAULT_URL = "tcp://127.0.0.1:7601"
TIMEOUT_S = 5.0
"""Seconds a call waits for the broker, unless told otherwise."""
RECONNECT_S = 30.0
"""Seconds a client tries to connect again after a connection broke."""
ACK_LEVELS: tuple[AckLevel, ...] = ("none", "appended", "durable")
CREDENTIALS_MAX = 60_000
"""Bytes of credentials: a broker takes 64 KiB of Hello, in which they stand."""
ARGUMENT_MAX = 1024
"""Characters of an argument of a query: the longest that means something is a pattern of 255 bytes."""
WINDOW_MAX = 1 << 40
"""Bytes of the largest window: more than a machine's memory, and far from where 64 bits end."""
QUEUE_MAX = 8 << 20
"""Bytes a subscription may have waiting while others on its client are read; what comes then is dropped,
and asked for again when it is consumed."""


def connect(
    url: str | Url | None = None,
    *,
    timeout: float | None = TIMEOUT_S,
    name: str | None = None,
    reconnect: bool | float | None = True,
    spin: float | None = 0.0,
    queue_bytes: int = QUEUE_MAX,
    identity: str | None = None,
    credentials: Mapping[str, str] | None = None,
) -> Client:
    """Connect to a broker.

    ``url`` defaults to the environment's ``HERMES_URL``, then to ``tcp://127.0.0.1:7601``.
    ``timeout``: seconds that calls wait for the broker; None: for ever.  ``name``: shown by
    ``hermes stats``.  ``reconnect``: seconds to go on trying after a connection broke; True: 30;
    False: not at all; None: for ever.  ``spin``: seconds to try reading before a thread that waits for messages is
    put to sleep: saves the wake-up, burns a core meanwhile.  ``queue_bytes``: what a subscription
    may have waiting while others on this client are read.  ``identity`` and ``credentials``: who
    we say we are, and what proves it, for a broker that asks; as in ``tcp://NAME:PASSWORD@HOST``,
    where the password is the credential ``password``.  They are never logged.

    Every time that this client takes is seconds: a negative one is now, None and infinity are for
    ever, NaN is refused.  A wrong argument is refused where it is passed, and disturbs nothing else.

    Raises:
        UsageError: an argument cannot work; the message names it.
        ConnectFailed: nobody answered there.
        InvalidUrl: the URL makes no sense.
        AuthenticationFailed, VersionRefused, Refused: the broker does not want us.
        Timeout: somebody answered, but not in time.
    """
    settings = settings_of(
        url,
        timeout=timeout,
        name=name,
        reconnect=reconnect,
        spin=spin,
        queue_bytes=queue_bytes,
        identity=identity,
        credentials=credentials,
    )
    return Client(Connection.open(settings))


def settings_of(
    url: str | Url | None,
    *,
    timeout: float | None,
    name: str | None,
    reconnect: bool | float | None,
    spin: float | None,
    queue_bytes: int,
    identity: str | None,
    credentials: Mapping[str, str] | None,
) -> Settings:
    """The arguments of :func:`connect`, checked."""
    if checks.is_bool(reconnect):
        reconnect = RECONNECT_S if reconnect else 0.0
    return Settings(
        _url(url),
        timeout=checks.duration(timeout, "timeout"),
        name=None if name is None else checks.text(name, "name", most=NAME_MAX),
        reconnect_ns=checks.nanoseconds(reconnect, "reconnect"),
        spin_ns=checks.nanoseconds(spin, "spin"),
        queue_bytes=checks.integer(queue_bytes, "queue_bytes", least=1),
        identity=None
        if identity is None
        else checks.text(identity, "identity", least=1, most=NAME_MAX),
        credentials=None if credentials is None else _checked_credentials(credentials),
    )


def _url(url: str | Url | None) -> Url:
    if isinstance(url, Url):
        return url
    if url is not None and not isinstance(url, str):  # it may hold a password: not shown
        raise WrongType(f"url takes a str, not a {type(url).__name__}")
    return parse_url(url or os.environ.get("HERMES_URL") or DEFAULT_URL)


class AnyClient:
    """A client without its waiting."""

    def __init__(self, connection: Connection) -> None:
        if not isinstance(connection, Connection):
            checks.wrong_type("connection", "what hermes.connect() makes", connection)
        self._connection = connection

    @property
    def url(self) -> Url:
        """Address of the broker."""
        return self._connection.url

    @property
    def timeout(self) -> float | None:
        """Seconds that calls wait for the broker, unless told otherwise; None: for ever."""
        return self._connection.timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._connection.timeout = checks.duration(seconds, "timeout")

    @property
    def limits(self) -> dict[str, int]:
        """Limits of the broker: ``message_max`` and others, by name."""
        limits = self._connection.session.limits
        return {name: getattr(limits, name) for name in limits.__struct_fields__}

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called, or the connection is given up."""
        return self._connection.over or self._connection.ending

    def __reduce__(self) -> NoReturn:
        raise WrongType(
            "a Client cannot be pickled or copied: it is a connection of this process; pass its URL, and "
            "connect there"
        )

    def __repr__(self) -> str:
        state = (
            "closed" if self.closed else "connected" if self._connection.alive else "reconnecting"
        )
        return f"<Client of {self.url}, {state}>"

    # ---- inside: what calls begin with ----

    def _line(
        self,
        topic: str | None,
        ack: AckLevel,
        linger: float | None,
        window: int,
        publisher_id: bytes | None,
    ) -> tuple[Line, int, int]:
        """A publisher to open, its linger in ns and its window; see :meth:`Client.publisher`."""
        self._connection.check()
        name = None if topic is None else _encoded_topic(topic)
        ack = checks.choice(ack, "ack", ACK_LEVELS)
        linger_ns = 0 if linger is None else checks.nanoseconds(linger, "linger")
        linger_ns = min(linger_ns, LINGER_MAX_NS)
        window = checks.integer(window, "window", least=CAPACITY_MIN, most=WINDOW_MAX)
        if publisher_id is not None:
            publisher_id = _checked_id(publisher_id)
        line = Line(publisher_id, ack)
        line.topic = name
        return line, linger_ns, window

    def _feed(
        self, pattern: str, start: StartPoint, durable: str | None, on_gap: OnGap
    ) -> tuple[Feed, Start]:
        """A subscription to open, and where it begins; see :meth:`Client.subscribe`."""
        self._connection.check()
        pattern = _checked_pattern(pattern)
        if durable is not None:
            durable = checks.text(durable, "durable", least=1, most=NAME_MAX)
        point = start_of(start, durable)
        checked_on_gap(on_gap)
        return Feed(0, pattern, durable), point

    def _query(self, what: str, arguments: dict[str, str]) -> Steps[Any]:
        """See :meth:`Client.query`."""
        self._connection.check()
        what = checks.text(what, "what", least=1, most=NAME_MAX)
        for name, value in arguments.items():
            arguments[name] = checks.text(value, name, most=ARGUMENT_MAX)
        return requests.query(self._connection, what, arguments)


class Client(AnyClient):
    """A connection to a broker, shared by its publishers and subscriptions; see :func:`connect`.

    Any thread may use it, and everything made from it.  A forked child may not: it gets
    :exc:`Forked`.
    """

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
        disk).  ``linger``: seconds a message may wait for others to share a system call, a minute at
        most; None: it goes out at once.  ``window``: bytes that may be unacknowledged.  ``publisher_id``: 16 bytes
        that name the publisher across connections and processes: messages go on behind the last
        one the broker has of it.

        Raises:
            UsageError: an argument cannot work; the message names it.
            InvalidTopic: the topic is not legal.
            Refused: the broker cannot give this acknowledgement, or not one publisher more.
        """
        connection = self._connection
        line, linger_ns, window = self._line(topic, ack, linger, window, publisher_id)
        deadline = connection.deadline(timeout)
        try:
            connection.run(requests.open_line(connection, line, linger_ns, window), deadline)
            return Publisher(connection, line, line.topic, line.level)
        except BaseException:
            connection.let_go(line)  # an interrupt may come behind its opening
            raise

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
            UsageError: an argument cannot work; the message names it.
            InvalidTopic: the pattern is not legal.
            Refused: the broker says no; the message says why.
        """
        connection = self._connection
        feed, point = self._feed(pattern, start, durable, on_gap)
        deadline = connection.deadline(timeout)
        subscription = Subscription(connection, feed, on_gap)
        try:
            connection.run(requests.open_feed(connection, feed, point), deadline)
        except BaseException:
            subscription.close()  # an interrupt may come behind its opening
            raise
        return subscription

    def query(self, what: str, *, timeout: float | None = None, **arguments: str) -> Any:
        """Ask the broker about itself: ``streams``, ``topics``, ``stats``, ``durables`` or
        ``config``.

        Raises:
            Refused: it does not answer that.
        """
        steps = self._query(what, arguments)
        return self._connection.run(steps, self._connection.deadline(timeout))

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
        arguments = topics_arguments(pattern, stream)
        found: list[dict[str, Any]] = self.query("topics", timeout=timeout, **arguments)
        return found

    def durables(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """The durable names under which the broker keeps positions, by name."""
        found: list[dict[str, Any]] = self.query("durables", timeout=timeout)
        return durables_by_name(found)

    def forget_durable(
        self, name: str, *, identity: str | None = None, timeout: float | None = None
    ) -> bool:
        """Delete a durable name and its positions in the broker; False if it has none of that name.

        ``identity``: whose name it is, where the broker authenticates; needed if several have it.

        Raises:
            Refused: a subscription commits under it (``durable_in_use``), several identities have
                it (``durable_ambiguous``), or the broker does not let this identity
                (``not_allowed``).
        """
        arguments = forget_arguments(name, identity)
        found: bool = self.query("forget", timeout=timeout, **arguments)
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
        connection.run(requests.round_trip(connection, lambda: False, "a ping"), deadline)
        return time.perf_counter() - begun

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now.

        Looks at it, unless another thread is reading: a broker whose end the system has noticed is
        not connected any more.
        """
        return self._connection.alive

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


def _checked_credentials(credentials: Mapping[str, str]) -> dict[str, str]:
    found = checks.texts(credentials, "credentials")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in found.items())
    if size > CREDENTIALS_MAX:
        raise UsageError(f"credentials have {CREDENTIALS_MAX} bytes at most, not {size}")
    return found


def _encoded_topic(topic: str) -> bytes:
    if not isinstance(topic, str):
        checks.text(topic, "topic")
    check_given_topic(topic)
    return topic.encode()


def _checked_pattern(pattern: str) -> str:
    if isinstance(pattern, list | tuple | set | frozenset):
        raise WrongType(
            f"pattern takes a str, not {checks.shown(pattern)}: subscribe to each of them, or to one "
            "pattern with '*' or '>'"
        )
    pattern = checks.text(pattern, "pattern")
    check_given_pattern(pattern)
    return pattern


def _checked_id(publisher_id: Any) -> bytes:
    if isinstance(publisher_id, str):
        checks.wrong_type("publisher_id", f"{PUBLISHER_ID_SIZE} bytes", publisher_id)
    found = checks.copied(publisher_id, "publisher_id")
    if len(found) != PUBLISHER_ID_SIZE:
        raise UsageError(f"publisher_id has {PUBLISHER_ID_SIZE} bytes, not {len(found)}")
    return found


def topics_arguments(pattern: str | None, stream: str | None) -> dict[str, str]:
    """The arguments of a query for topics, checked; those that are None are not among them."""
    found = {}
    if pattern is not None:
        found["pattern"] = _checked_pattern(pattern)
    if stream is not None:
        found["stream"] = checks.text(stream, "stream", least=1, most=NAME_MAX)
    return found


def forget_arguments(name: str, identity: str | None) -> dict[str, str]:
    """The arguments of a request to delete a durable name, checked."""
    found = {"durable": checks.text(name, "name", least=1, most=NAME_MAX)}
    if identity is not None:
        found["identity"] = checks.text(identity, "identity", most=NAME_MAX)
    return found


def durables_by_name(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The durable names that a broker keeps, in order."""
    return sorted(rows, key=lambda row: (row["name"], row.get("identity") or ""))
