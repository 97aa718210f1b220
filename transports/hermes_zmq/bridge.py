"""Bridges to ZeroMQ programs that stay where they are: a feed is recorded, topics are published.

A bridge is a Hermes client and a ZeroMQ socket that connects; the messages go from one to the other
in C, many per call.
"""

from __future__ import annotations

import contextlib
import logging
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import zmq

import hermes
from hermes.errors import InvalidUrl, SystemFault, Timeout
from hermes.native.frames import BATCH_HEADER_SIZE, MESSAGE_MAX
from hermes_zmq import curve
from hermes_zmq.pump import BLOCKED, DAMAGED, EMPTY, FAILED, Map, make_pump
from hermes_zmq.sockets import Socket, allow_ipv6, events, make_context, make_socket

LOG = logging.getLogger("hermes.zmq")

SLICE_S = 0.2
"""How late a bridge may notice that it is to stop."""
COMMIT_S = 1.0
"""How often a durable position is stored."""
NS_PER_S = 1_000_000_000

Stop = Callable[[], bool]


@dataclass(slots=True)
class Passed:
    """What a bridge has passed on, and what it could not."""

    messages: int = 0
    oversized: int = 0
    crowded: int = 0
    gaps: int = 0


@contextlib.contextmanager
def connected(
    kind: int, endpoint: str, *, high_water: int, key: str = "", server: str = ""
) -> Iterator[Socket]:
    """A socket that connects to ``endpoint``, and goes on trying.

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
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise InvalidUrl(
                f"{endpoint!r} is not a ZeroMQ endpoint: {error}; expected tcp://host:port or "
                "ipc://path"
            ) from error
        yield socket
        socket.close()
    finally:
        context.destroy()


def record(
    socket: Socket, client: hermes.Client, prefixes: list[str], stop: Stop, passed: Passed
) -> None:
    """Publish what the feed at the other end of ``socket`` (an XSUB) sends, until ``stop``.

    Raises: as :meth:`hermes.Publisher.send`.
    """
    for prefix in prefixes or [""]:
        socket.send(b"\x01" + prefix.encode())
    pump = make_pump(socket, Map(message_max=client.limits["message_max"]))
    with client.publisher() as publisher:
        while not stop():
            result = pump.receive(1, 0, time.time_ns())
            if result.oversized or result.crowded:
                passed.oversized += result.oversized
                passed.crowded += result.crowded
                LOG.warning(
                    "%d messages were over the broker's limit or of too many parts, and left out",
                    result.oversized + result.crowded,
                )
            if result.size:
                publisher.send_frames(pump.view[BATCH_HEADER_SIZE : result.size])
                passed.messages += result.messages
            if result.why == FAILED:
                raise SystemFault(f"receiving from the feed failed (error {result.error})")
            if result.why == EMPTY:
                _wait(socket)
        publisher.flush()


def replay(
    socket: Socket,
    subscription: hermes.Subscription,
    stop: Stop,
    passed: Passed,
    *,
    commit: bool,
) -> None:
    """Send what ``subscription`` gets by ``socket`` (an XPUB), until ``stop``.

    It begins when the first subscriber has been heard of, and waits where one is full.
    """
    pump = make_pump(socket, Map())
    while not stop() and not events(socket) & zmq.POLLIN:
        _wait(socket)
    due = time.monotonic() + COMMIT_S
    while not stop():
        try:
            for batch in subscription.batches(timeout=SLICE_S):
                _send(socket, pump, batch.frames, stop, passed)
                if stop():
                    break
                if commit and time.monotonic() >= due:
                    subscription.commit()
                    due = time.monotonic() + COMMIT_S
        except Timeout:
            _drain(socket)
    if commit:
        subscription.commit()


def _send(socket: Socket, pump: Any, frames: memoryview, stop: Stop, passed: Passed) -> None:
    waits = False
    while frames and not stop():
        if waits:  # nothing has looked at the socket since it took no more
            select.select([int(socket.getsockopt(zmq.FD))], [], [], SLICE_S)
            _drain(socket)
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
    with contextlib.suppress(zmq.Again):
        while True:
            socket.recv(zmq.DONTWAIT)


def _wait(socket: Socket) -> None:
    """Until the socket has news, or a slice has passed."""
    if not events(socket) & zmq.POLLIN:
        select.select([int(socket.getsockopt(zmq.FD))], [], [], SLICE_S)
