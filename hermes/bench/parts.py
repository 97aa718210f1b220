"""The loops that are timed: users of a system in one pass, and their reports.

    publish    as fast as it goes           sent, start_ns
    receive    counts                       delivered, last_ns
    pace       keeps to a schedule          sent, late_ns
    hear       takes the time of each       delivered, last_ns, duplicates, disordered, histogram
    pingpong   sends, and waits for it      sent, delivered, start_ns, last_ns, histogram

Times are CLOCK_MONOTONIC.  A message of a paced pass begins with the time at which it was *due* and
its number: latency counts from there, so that a stall shows in every message that it held up.
"""

from __future__ import annotations

import gc
import struct
import time
from array import array
from collections.abc import Callable
from typing import Any, ClassVar

from hermes.base.platform import sched_yield
from hermes.bench.contestant import Driver, Publisher, Subscriber
from hermes.bench.histogram import encoded, histogram_of

STAMP = struct.Struct("<qq")
"""The beginning of a paced payload: due time, ns, and number."""
SIZE_MIN = STAMP.size
"""Bytes that a paced payload has at least."""
NEAR_NS = 60_000
"""Sleep no closer to the due time than this: what a sleep may overshoot on a virtual machine."""

Report = dict[str, Any]
Task = dict[str, Any]


def publish(publisher: Publisher, part: Task, task: Task) -> Report:
    """As fast as the system takes them."""
    count = _share(task["messages"], part)
    payload = bytes(part["size"])
    start_ns = time.monotonic_ns()
    publisher.burst(payload, count)
    publisher.flush()
    return {"sent": count, "start_ns": start_ns, "end_ns": time.monotonic_ns()}


def receive(subscriber: Subscriber, part: Task, task: Task) -> Report:
    """Count until everything is there, or nothing comes any more."""
    expected, idle_s, extra_s = task["messages"], task["idle_s"], task["extra_s"]
    delivered, last_ns, drain = 0, 0, subscriber.drain
    while delivered < expected or extra_s:
        got = drain(idle_s if delivered < expected else extra_s)
        if got == 0:
            break
        delivered += got
        last_ns = time.monotonic_ns()
    return {"delivered": delivered, "last_ns": last_ns}


def pace(publisher: Publisher, part: Task, task: Task) -> Report:
    """One message at a time, on schedule; one that is late goes out at once and keeps its time."""
    clock, pack, send, pause = time.monotonic_ns, STAMP.pack, publisher.send, sched_yield
    filler = bytes(part["size"] - STAMP.size)
    start_ns, interval_ns, first = task["start_ns"], 1e9 / part["rate"], task["first"]
    late_ns = sent = 0
    for number in range(part["index"], task["messages"], part["of"]):
        due_ns = start_ns + int(number * interval_ns)
        now_ns = clock()
        if due_ns - now_ns > NEAR_NS:
            time.sleep((due_ns - now_ns - NEAR_NS) / 1e9)
        while (now_ns := clock()) < due_ns:
            pause()  # who waits for this core has more to do
        if now_ns - due_ns > late_ns:
            late_ns = now_ns - due_ns
        send(pack(due_ns, first + number) + filler)
        sent += 1
    publisher.flush()
    return {"sent": sent, "late_ns": late_ns}


def hear(subscriber: Subscriber, part: Task, task: Task) -> Report:
    """Take the time of each message, and see whether it comes once and in order."""
    clock, unpack, take = time.monotonic_ns, STAMP.unpack_from, subscriber.receive
    expected, idle_s, first = task["messages"], task["idle_s"], task["first"]
    extra_s = task["extra_s"]
    latencies = array("q", bytes(8 * expected))
    seen = bytearray(expected)
    delivered = duplicates = disordered = following = last_ns = 0
    while delivered < expected or extra_s:
        payload = take(idle_s if delivered < expected else extra_s)
        if payload is None:
            break
        now_ns = clock()
        due_ns, number = unpack(payload)
        number -= first
        if not 0 <= number < expected:
            continue  # of an earlier pass, which has counted it as lost
        if seen[number]:
            duplicates += 1
            continue
        seen[number] = 1
        latencies[delivered] = now_ns - due_ns
        delivered += 1
        if number < following:
            disordered += 1
        following = number
        last_ns = now_ns
    return {
        "delivered": delivered,
        "duplicates": duplicates,
        "disordered": disordered,
        "last_ns": last_ns,
        "histogram": encoded(histogram_of(latencies[:delivered])),
    }


def pingpong(publisher: Publisher, subscriber: Subscriber, part: Task, task: Task) -> Report:
    """Publish a message and receive it: what a request and its answer would take.

    One that does not come back is lost, and the next is sent.
    """
    clock, pack = time.monotonic_ns, STAMP.pack
    unpack, send, take = STAMP.unpack_from, publisher.send, subscriber.receive
    filler = bytes(part["size"] - STAMP.size)
    count, idle_s, first = task["messages"], task["idle_s"], task["first"]
    latencies = array("q", bytes(8 * count))
    delivered = 0
    start_ns = last_ns = clock()
    for number in range(first, first + count):
        sent_ns = clock()
        send(pack(sent_ns, number) + filler)
        while (payload := take(idle_s)) is not None:
            last_ns = clock()
            if unpack(payload)[1] == number:
                latencies[delivered] = last_ns - sent_ns
                delivered += 1
                break
    return {
        "sent": count,
        "delivered": delivered,
        "start_ns": start_ns,
        "last_ns": last_ns,
        "histogram": encoded(histogram_of(latencies[:delivered])),
    }


PARTS: dict[str, Callable[..., Report]] = {
    "publish": publish,
    "receive": receive,
    "pace": pace,
    "hear": hear,
    "pingpong": pingpong,
}


class UserPart:
    """A user of a driver's system, connected and waiting for its next pass."""

    plays: ClassVar = PARTS

    def __init__(self, driver: Driver, where: dict[str, Any], part: Task) -> None:
        self._part = part
        self._close: list[Callable[[], None]] = []
        role, topic = part["role"], part["topic"]
        users: list[Any] = []
        try:
            if role in ("publish", "pace"):
                users = [self._kept(driver.publisher(where, topic))]
            elif role in ("receive", "hear"):
                users = [self._kept(driver.subscriber(where, topic))]
            elif (pair := getattr(driver, "pair", None)) is not None:
                users = [self._kept(user) for user in pair(where, topic)]
            else:
                hearing = self._kept(driver.subscriber(where, topic))
                users = [self._kept(driver.publisher(where, topic)), hearing]
        except BaseException:
            self.close()
            raise
        self._users = users
        self._play: Callable[..., Report] = self.plays[role]

    def _kept(self, user: Any) -> Any:
        self._close.append(user.close)
        return user

    def play(self, task: Task) -> Report:
        """One pass."""
        gc.collect()
        gc.disable()  # a pause of ours would be charged to the system
        try:
            return self._play(*self._users, self._part, task)
        finally:
            gc.enable()

    def close(self) -> None:
        """Disconnect."""
        while self._close:
            self._close.pop()()


def _share(messages: int, part: Task) -> int:
    """How many of the messages are ours, if several publish."""
    return len(range(part["index"], messages, part["of"]))
