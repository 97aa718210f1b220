"""What is left when another Python thread of the same process is busy?

Each side of the main throughput question is played again with a thread that computes beside it, then the broker
itself is embedded in a program, idle and busy.  Control: the same without the thread.
"""

from __future__ import annotations

from functools import partial

from benchmarks.system import hermes_rounds
from benchmarks.system.harness import Broker, Contestant, Metrics, Question, Scale, Stage

PAIRS = (
    ("send_many", "many", "batches"),
    ("send (linger 1 ms)", "one", "batches"),
    ("receiving objects", "many", "objects"),
    ("receiving batches", "rows", "batches"),
)


def embedded(stage: Stage, *, messages: int, busy: bool) -> Metrics:
    """The broker runs inside a Python program."""
    role = stage.python("hermes_roles", "embedded", *(["busy"] if busy else []))
    return hermes_rounds.client_throughput(
        stage,
        broker=Broker(role, role.line()),
        messages=messages,
        publish="rows",
        receive="batches",
    )


def question(scale: Scale) -> Question:
    """Pairs: quiet and contended."""
    messages = scale.pick(2_000_000, 50_000)
    run = partial(hermes_rounds.client_throughput, messages=messages)
    contestants = []
    for title, publish, receive in PAIRS:
        receiving = title.startswith("receiving")
        busy_publish = publish if receiving else f"{publish}+busy"
        busy_receive = f"{receive}+busy" if receiving else receive
        contestants += [
            Contestant(
                f"{title}, alone", partial(run, publish=publish, receive=receive), "control"
            ),
            Contestant(
                f"{title}, beside a busy thread",
                partial(run, publish=busy_publish, receive=busy_receive),
            ),
        ]
    for title, busy in (("idle", False), ("busy", True)):
        contestants.append(
            Contestant(
                f"broker embedded in a program that is {title}",
                partial(embedded, messages=messages, busy=busy),
                "batch API at both ends",
            )
        )
    return Question(
        name="contended",
        asks="Beside a busy Python thread of the same process (256 B)",
        contestants=tuple(contestants),
        rounds=3,
    )
