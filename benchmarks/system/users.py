"""Users of the public client: those of ``hermes.bench``, and other calls at either end.

``where`` says which, beside the address: ``publish`` (``rows``, ``many``, ``each``), ``linger``,
``receive`` (``batches``, ``objects``), and ``busy``, the end beside which a thread computes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import hermes
from hermes.bench.own import HermesCast, HermesPublisher, HermesSubscriber, Users
from hermes.bench.parts import PARTS, UserPart
from hermes.bench.stage import Process, Stage

ROWS_BYTES = 1 << 20
"""Payload of one ``send_rows``."""
MANY = 1000
"""Messages of one ``send_many``."""
FILL_BYTES = 3 << 30
"""Payload that fills a log: more than the retention, so that every later segment is one used again."""


@cache
def compute() -> None:
    """Have a thread that computes beside whatever this process does."""

    def run() -> None:
        number = 1
        while True:
            number = number * 1103515245 + 12345 & 0x7FFFFFFF

    threading.Thread(target=run, daemon=True).start()


def send_rows(publisher: hermes.Publisher, payload: bytes, count: int) -> None:
    """Many in an array, a row each."""
    import numpy as np

    together = ROWS_BYTES // len(payload)
    rows = np.zeros((together, len(payload)), dtype=np.uint8)
    for _ in range(count // together):
        publisher.send_rows(rows)
    if count % together:
        publisher.send_rows(rows[: count % together])


def send_many(publisher: hermes.Publisher, payload: bytes, count: int) -> None:
    """Many in a list."""
    payloads = [payload] * MANY
    for _ in range(count // MANY):
        publisher.send_many(payloads)
    if count % MANY:
        publisher.send_many(payloads[: count % MANY])


def send_each(publisher: hermes.Publisher, payload: bytes, count: int) -> None:
    """A call each."""
    send = publisher.send
    for _ in range(count):
        send(payload)


PUBLISH: dict[str, Callable[[hermes.Publisher, bytes, int], None]] = {
    "rows": send_rows,
    "many": send_many,
    "each": send_each,
}


class QuestionPublisher(HermesPublisher):
    """A user who sends as the question wants it."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where, topic)
        self._send_all = PUBLISH[where["publish"]]

    def burst(self, payload: bytes, count: int) -> None:
        """By the call that was chosen."""
        self._send_all(self._publisher, payload, count)


class QuestionSubscriber(HermesSubscriber):
    """A user who may take one message object after another."""

    def take(self, count: int) -> None:
        """So many, in a ``for`` loop."""
        for message in self._subscription:
            message.payload  # noqa: B018 - a user would look at it
            count -= 1
            if not count:
                break


def take(subscriber: Any, part: dict[str, Any], task: dict[str, Any]) -> dict[str, int]:
    """One by one until everything is there."""
    subscriber.take(task["messages"])
    return {"delivered": task["messages"], "last_ns": time.monotonic_ns()}


class TakingPart(UserPart):
    """A user who receives one message after another, and knows how many come."""

    plays = PARTS | {"receive": take}


class QuestionUsers(Users):
    """The users, and the broker, that an actor makes."""

    def part(self, where: dict[str, Any], part: dict[str, Any]) -> UserPart:
        """The part of a user who sends or receives as ``where`` says."""
        if part["role"] == {"publisher": "publish", "subscriber": "receive"}.get(where.get("busy")):
            compute()
        return (TakingPart if where.get("receive") == "objects" else UserPart)(self, where, part)

    def publisher(self, where: dict[str, Any], topic: str) -> HermesPublisher:
        """A user who sends."""
        return QuestionPublisher(where, topic)

    def subscriber(self, where: dict[str, Any], topic: str) -> HermesSubscriber:
        """A user who receives."""
        return QuestionSubscriber(where, topic)

    def serve_here(self, config: dict[str, Any], *, busy: bool = False) -> dict[str, Any]:
        """A broker in this process, which may have better things to do."""
        if busy:
            compute()
        return super().serve_here(config)


USERS = QuestionUsers()
REFERENCE = "benchmarks.system.users:USERS"


class QuestionCast(HermesCast):
    """A broker and users of it.  How much they send is the question's: one who falls behind by more
    than the log keeps has lost something, and the round fails."""

    def __init__(self, stage: Stage, broker: Process, where: dict[str, Any], **how: Any) -> None:
        super().__init__(
            stage, where | how, [broker], kept=FILL_BYTES, fill=True, reference=REFERENCE
        )

    def most(self, job: object) -> None:
        """Any number."""
