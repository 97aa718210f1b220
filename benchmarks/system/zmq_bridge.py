"""What do ZeroMQ programs pay for a log behind their sockets, and what do they lose without one?

Publisher and subscriber are pyzmq programs that know nothing of Hermes.  Control: ``zmq.proxy`` with
the same programs; for the rate without high-water marks, so that it loses nothing either.
"""

from __future__ import annotations

import json
from functools import partial

from benchmarks.system.harness import (
    MESSAGE_BYTES,
    Contestant,
    Meter,
    Metrics,
    Question,
    Role,
    Scale,
    Stage,
    Target,
    throughput,
)
from benchmarks.system.hermes_rounds import warmed

DEFAULT_HWM = 1000
"""ZeroMQ's own."""
UNLIMITED = 0
PROXY, BRIDGE = "zmq.proxy", "Hermes, mmap log"
TWO, ONE = "[topic, payload]", '"topic payload"'


def play(
    stage: Stage,
    *,
    front: str,
    back: str,
    broker: Role,
    messages: int,
    parts: int,
    hwm: int,
    size: int = MESSAGE_BYTES,
) -> Metrics:
    """Messages per second from the first send to the last receive, and how many did not come."""
    roles = "zmq_bridge_roles"
    receiver = stage.python(roles, "subscribe", back, parts, hwm)
    sender = stage.python(roles, "publish", front, messages, size, parts, hwm).ready()
    receiver.ready()
    meter = Meter(broker=[broker], publisher=[sender], subscriber=[receiver])
    receiver.go()
    sender.go()
    start = sender.result()["start_ns"]
    result = receiver.result()
    came = result["messages"]
    found = throughput(max(came, 1), start, result["end_ns"], meter)
    return found | {"lost_percent": 100 * (messages - came) / messages}


def through_proxy(stage: Stage, *, messages: int, parts: int, hwm: int) -> Metrics:
    """Through XSUB and XPUB."""
    proxy = stage.python("zmq_bridge_roles", "proxy", hwm)
    front, back = proxy.line().split()
    return play(
        stage, front=front, back=back, broker=proxy, messages=messages, parts=parts, hwm=hwm
    )


def through_hermes(stage: Stage, *, messages: int, parts: int, hwm: int) -> Metrics:
    """Through a broker that logs everything, on segments that are used again; its own high-water
    marks are always the default."""
    listener = ("--transport", "zmq+tcp://127.0.0.1:0", "--retention", "2GiB")
    broker = warmed(stage, *listener, quick=stage.scale.quick)
    assert broker.ready_file is not None
    doors = json.loads(broker.ready_file.read_text())["listeners"][1]["doors"]
    return play(
        stage,
        front=doors["pub"],
        back=doors["sub"],
        broker=broker.role,
        messages=messages,
        parts=parts,
        hwm=hwm,
    )


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
    defaults = {"messages": messages, "parts": 2, "hwm": DEFAULT_HWM}
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
