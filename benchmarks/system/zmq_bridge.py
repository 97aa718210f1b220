"""What do ZeroMQ programs pay for a log behind their sockets, and what do they lose without one?

Publisher and subscriber are pyzmq programs that know nothing of Hermes.  Control: ``zmq.proxy`` with
the same programs; for the rate without high-water marks, so that it loses nothing either.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.rivals.pyzmq_ import HWM, Publisher, Subscriber, start_proxy
from benchmarks.system import hermes_rounds
from benchmarks.system.harness import (
    MESSAGE_BYTES,
    TCP,
    Contestant,
    Metrics,
    Question,
    Round,
    Scale,
    Target,
    rates,
)
from hermes.bench.actors import ActorCast
from hermes.bench.contestant import Job
from hermes.bench.stage import Process

UNLIMITED = 0
PROXY, BRIDGE = "zmq.proxy", "Hermes, mmap log"
TWO, ONE = "[topic, payload]", '"topic payload"'


class TwoPartPublisher(Publisher):
    """A PUB whose messages have the topic in a part of its own."""

    def burst(self, payload: bytes, count: int) -> None:
        """One by one."""
        send, message = self._socket.send_multipart, [self._prefix, payload]
        for _ in range(count):
            send(message)


class TwoPartSubscriber(Subscriber):
    """A SUB of such messages."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where, topic)
        self._take = partial(self._socket.recv_multipart, self._now)


class OnePartSubscriber(Subscriber):
    """A SUB whose calls copy, as they do unless told otherwise."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where, topic)
        self._take = partial(self._socket.recv, self._now)


class Programs:
    """ZeroMQ programs, as an actor asks for them."""

    def __init__(self, publisher: type[Publisher], subscriber: type[Subscriber]) -> None:
        self.publisher = publisher
        self.subscriber = subscriber


ONE_PART = Programs(Publisher, OnePartSubscriber)
TWO_PARTS = Programs(TwoPartPublisher, TwoPartSubscriber)


def play(
    stage: Round,
    broker: Process,
    *,
    front: str,
    back: str,
    messages: int,
    parts: int,
    hwm: int,
) -> Metrics:
    """Messages per second from the first send to the last receive, and how many did not come."""
    where = {
        "publish": front,
        "subscribe": back,
        "direct": False,
        "lossless": True,  # the publisher waits where it would drop: what is missing was lost between
        "hwm": hwm,
        "topics": True,
    }
    reference = f"{__name__}:{'ONE_PART' if parts == 1 else 'TWO_PARTS'}"
    cast = ActorCast(stage, reference, where, [broker])
    sample = stage.measure(cast, Job("throughput", MESSAGE_BYTES), messages, lossy=True)
    return {**rates(sample), "lost_percent": 100 * sample.lost / sample.expected}


def through_proxy(stage: Round, *, hwm: int, **how: Any) -> Metrics:
    """Through XSUB and XPUB."""
    proxy, front, back = start_proxy(stage, lossless=False, hwm=hwm)
    return play(stage, proxy, front=front, back=back, hwm=hwm, **how)


def through_hermes(stage: Round, **how: Any) -> Metrics:
    """Through a broker that logs everything, on segments that are used again; its own high-water
    marks are always the default."""
    broker = stage.broker(TCP, "zmq+tcp://127.0.0.1:0", retention=hermes_rounds.RETENTION)
    if not stage.scale.quick:
        hermes_rounds.users(stage, broker).warm(Job("throughput", MESSAGE_BYTES))
    doors = broker.where["doors"]
    return play(stage, broker.process, front=doors["pub"], back=doors["sub"], **how)


def question(scale: Scale) -> Question:
    """The rate without loss, for both forms of a message; then what is lost with the defaults."""
    messages = scale.pick(1_500_000, 30_000)
    contestants = []
    for form, parts in ((TWO, 2), (ONE, 1)):
        run = {"messages": messages, "parts": parts, "hwm": UNLIMITED}
        contestants += [
            Contestant(f"{PROXY}, {form}", partial(through_proxy, **run), "no high-water mark"),
            Contestant(f"{BRIDGE}, {form}", partial(through_hermes, **run)),
        ]
    defaults = {"messages": messages, "parts": 2, "hwm": HWM}
    lossy, kept = f"{PROXY}, defaults", f"{BRIDGE}, defaults"
    contestants += [
        Contestant(lossy, partial(through_proxy, **defaults), "high-water mark 1000 everywhere"),
        Contestant(kept, partial(through_hermes, **defaults), "high-water mark 1000 everywhere"),
    ]
    rates = [
        Target(
            f"bridge beside proxy, {form}",
            f"{BRIDGE}, {form}",
            "messages_per_s",
            0.8,
            of=(f"{PROXY}, {form}",),
        )
        for form in (TWO, ONE)
    ]
    losses = [
        Target(f"nothing lost: {row}", row, "lost_percent", 0.0, at_most=True)
        for row in (f"{BRIDGE}, {TWO}", f"{BRIDGE}, {ONE}", kept)
    ]
    return Question(
        name="zmq_bridge",
        asks="One PUB, one SUB, 256 B messages, through Hermes with an mmap log or through zmq.proxy",
        contestants=tuple(contestants),
        targets=(*rates, *losses),
    )
