"""Bridges to ZeroMQ programs that stay where they are: a feed is recorded, topics are published.

A bridge is a Hermes client and a ZeroMQ socket that connects; the messages go from one to the other
in C, many per call.
"""

from __future__ import annotations

import contextlib
import logging
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import zmq

import hermes
from hermes.errors import HermesError, InvalidUrl, Refused, SystemFault, Timeout
from hermes.native.decoder import decode
from hermes.native.frames import BATCH_HEADER_SIZE, MESSAGE_MAX
from hermes_zmq import curve
from hermes_zmq.pump import BLOCKED, DAMAGED, EMPTY, FAILED, Map, make_pump
from hermes_zmq.sockets import Monitor, Socket, allow_ipv6, events, make_context, make_socket

LOG = logging.getLogger("hermes.zmq")

SLICE_S = 0.2
"""How late a bridge may notice that it is to stop."""
COMMIT_S = 1.0
"""How often a durable position is stored."""
NS_PER_S = 1_000_000_000
SAY_S = 10.0
"""The same thing is said once in this time."""
REFUSES_ONE = ("topic_refused", "too_many_topics", "not_allowed")
"""Errors that are about one message: the others are taken."""
THERE: dict[int, str] = {
    zmq.XSUB: "PUB or XPUB",
    zmq.PULL: "PUSH",
    zmq.XPUB: "SUB or XSUB",
    zmq.PUSH: "PULL",
}
"""The sockets that each of ours may connect to."""
WATCHED = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED

Stop = Callable[[], bool]


@dataclass(slots=True)
class Passed:
    """Counts of what a bridge has passed on, and of what it could not."""

    messages: int = 0
    oversized: int = 0
    crowded: int = 0
    refused: int = 0
    gaps: int = 0


class Watch:
    """Says when the program at the other end hangs up before ZeroMQ's handshake is finished."""

    def __init__(self, socket: Socket, kind: int, endpoint: str) -> None:
        self.monitor = Monitor(socket, WATCHED)
        self._text = (
            "what answers at %s hangs up before ZeroMQ's handshake is finished: a bound "
            f"{THERE[kind]} socket is wanted there, and --curve and --server if it asks for keys"
        )
        self._endpoint = endpoint
        self._begun = False
        self._said = -SAY_S

    def look(self) -> None:
        """Take the events of the monitor."""
        for event, _ in self.monitor.news():
            if event == zmq.EVENT_DISCONNECTED and self._begun:
                now = time.monotonic()
                if now - self._said >= SAY_S:
                    self._said = now
                    LOG.warning(self._text, self._endpoint)
            self._begun = event == zmq.EVENT_CONNECTED


@contextlib.contextmanager
def connected(
    kind: int, endpoint: str, *, high_water: int, key: str = "", server: str = ""
) -> Iterator[tuple[Socket, Watch]]:
    """A socket that connects to ``endpoint``, and goes on trying; and what watches it.

    Raises:
        InvalidUrl: it is no ZeroMQ endpoint, or a key cannot be read.
    """
    context = make_context(1, 1)
    try:
        socket = make_socket(context, kind, high_water=high_water, message_max=MESSAGE_MAX)
        if kind == zmq.XPUB:
            socket.setsockopt(zmq.XPUB_NODROP, 1)
        if key:
            curve.use_curve(socket, curve.read_keys(key, secret=True), curve.public_key(server))
        allow_ipv6(socket, endpoint)
        watch = Watch(socket, kind, endpoint)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise InvalidUrl(
                f"{endpoint!r} is not a ZeroMQ endpoint: {error}; expected tcp://host:port or "
                "ipc://path"
            ) from error
        yield socket, watch
        watch.monitor.close()
        socket.close()
    finally:
        context.destroy()


class _Recorder:
    """Publishes frames; a message that the broker refuses is passed over, and the others are not."""

    def __init__(self, client: hermes.Client, passed: Passed) -> None:
        self._client = client
        self._passed = passed
        self._publisher = client.publisher()
        self._held: deque[tuple[int, bytes]] = deque()  # last sequence, frames: unacknowledged
        self._said = -SAY_S

    def send(self, frames: memoryview, messages: int) -> None:
        """Publish the next frames."""
        acked = self._publisher.acked
        while self._held and self._held[0][0] <= acked:
            self._held.popleft()
        self._held.append((self._publisher.sent + messages, bytes(frames)))
        try:
            self._publisher.send_frames(self._held[-1][1])
        except Refused as error:
            self._pass_over(error)

    def flush(self) -> None:
        """Wait until all is in the log."""
        try:
            self._publisher.flush()
        except Refused as error:
            self._pass_over(error)

    def close(self) -> None:
        """Have nothing more to publish."""
        self.flush()
        self._publisher.close()

    def abandon(self) -> None:
        """Give up what is not acknowledged."""
        with contextlib.suppress(HermesError):
            self._publisher.close(timeout=0)

    def _pass_over(self, error: Refused) -> None:
        """Send what stands behind the refused message by another publisher, until all is taken.

        Raises:
            Refused: it is not about a single message.
        """
        while True:
            if error.code not in REFUSES_ONE:
                raise error
            try:  # once it was opened again, how far the broker is is known
                self._publisher.resend()
                self._publisher.flush()
            except Refused:
                pass
            else:
                return
            rest = self._behind_refused(error)
            self.abandon()
            self._publisher = self._client.publisher()
            self._held.clear()
            if not len(rest):
                return
            self._held.append((len(decode(rest, message_max=MESSAGE_MAX)), rest))
            try:
                self._publisher.send_frames(rest)
                self._publisher.flush()
            except Refused as another:
                error = another
            else:
                return

    def _behind_refused(self, error: Refused) -> bytes:
        """The frames behind the first that is not acknowledged."""
        acked, last = self._publisher.acked, self._held[-1][0]
        frames = b"".join(data for _, data in self._held)
        index = decode(frames, message_max=MESSAGE_MAX)
        refused = len(index) - (last - acked)
        self._passed.refused += 1
        self._passed.messages -= 1
        now = time.monotonic()
        if now - self._said >= SAY_S:
            self._said = now
            LOG.warning(
                "messages were left out (%d so far), the last of topic %r: %s",
                self._passed.refused,
                index[refused][1],
                error,
            )
        return frames[index.frame_offset[refused + 1] :] if refused + 1 < len(index) else b""


def record(
    socket: Socket,
    watch: Watch,
    client: hermes.Client,
    prefixes: list[str],
    stop: Stop,
    passed: Passed,
    *,
    topic: str = "",
) -> None:
    """Publish what the program at the other end of ``socket`` (an XSUB or PULL) sends, until
    ``stop``; everything under ``topic`` if there is one.

    Raises: as :meth:`hermes.Publisher.send`, but for single messages that the broker refuses: those
    are counted.
    """
    if socket.type == zmq.XSUB:
        for prefix in prefixes or [""]:
            socket.send(b"\x01" + prefix.encode())
    mapping = Map(topic=topic, message_max=client.limits["message_max"])
    pump = make_pump(socket, mapping)
    recorder = _Recorder(client, passed)
    try:
        while not stop():
            watch.look()
            result = pump.receive(1, 0, time.time_ns())
            if result.oversized or result.crowded:
                passed.oversized += result.oversized
                passed.crowded += result.crowded
                LOG.warning(
                    "%d messages were over the broker's limit or of too many parts, and left out",
                    result.oversized + result.crowded,
                )
            if result.size:
                passed.messages += result.messages
                recorder.send(pump.view[BATCH_HEADER_SIZE : result.size], result.messages)
            if result.why == FAILED:
                raise SystemFault(f"receiving from the feed failed (error {result.error})")
            if result.why == EMPTY:
                recorder.flush()
                _wait(socket)
        recorder.close()
    except BaseException:
        recorder.abandon()
        raise


def replay(
    socket: Socket,
    watch: Watch,
    subscription: hermes.Subscription,
    stop: Stop,
    passed: Passed,
    *,
    commit: bool,
    bare: bool = False,
) -> None:
    """Send what ``subscription`` gets by ``socket`` (an XPUB or PUSH), until ``stop``; ``bare``:
    without its topic.

    An XPUB begins when the first subscriber has been heard of; both wait where a peer is full.
    """
    pump = make_pump(socket, Map(form="bare" if bare else "multipart"))
    while socket.type == zmq.XPUB and not stop() and not events(socket) & zmq.POLLIN:
        watch.look()
        _wait(socket)
    due = time.monotonic() + COMMIT_S
    while not stop():
        watch.look()
        try:
            for batch in subscription.batches(timeout=SLICE_S):
                _send(socket, watch, pump, batch.frames, stop, passed)
                if stop():
                    break
                if commit and time.monotonic() >= due:
                    subscription.commit()
                    due = time.monotonic() + COMMIT_S
        except Timeout:
            _drain(socket)
    if commit:
        subscription.commit()


def _send(
    socket: Socket, watch: Watch, pump: Any, frames: memoryview, stop: Stop, passed: Passed
) -> None:
    waits = False
    while frames and not stop():
        if waits:  # nothing has looked at the socket since it took no more
            select.select([int(socket.getsockopt(zmq.FD))], [], [], SLICE_S)
            _drain(socket)
            watch.look()
        sent = pump.send_frames(frames)
        passed.messages += sent.messages
        frames = frames[sent.consumed :]
        if sent.why == DAMAGED:
            LOG.error("a message is not sound: the rest of its batch was left out")
        elif sent.why == FAILED:
            raise SystemFault(f"sending failed (error {sent.error})")
        waits = sent.why == BLOCKED


def _drain(socket: Socket) -> None:
    """Forget who subscribes to what: the socket itself selects."""
    events(socket)
    with contextlib.suppress(zmq.Again):
        while socket.type == zmq.XPUB:
            socket.recv(zmq.DONTWAIT)


def _wait(socket: Socket) -> None:
    """Wait until something has happened at the socket, or a slice has passed."""
    if not events(socket) & zmq.POLLIN:
        select.select([int(socket.getsockopt(zmq.FD))], [], [], SLICE_S)
