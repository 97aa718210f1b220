"""What is left when another Python thread of the same process is busy?

Each side of the main throughput question is played again with a thread that computes beside it, then the broker
itself is embedded in a program, idle and busy.  Control: the same without the thread.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.system import hermes_rounds
from benchmarks.system.harness import TCP, Broker, Contestant, Metrics, Question, Round, Scale
from benchmarks.system.throughput import LINGER_S
from benchmarks.system.users import REFERENCE
from hermes.bench.own import start_embedded

PAIRS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("send_many", "publisher", {"publish": "many"}),
    ("send (linger 1 ms)", "publisher", {"publish": "each", "linger": LINGER_S}),
    ("receiving objects", "subscriber", {"publish": "many", "receive": "objects"}),
    ("receiving batches", "subscriber", {"publish": "rows"}),
)
"""Title, the end that has a busy thread beside it, and the calls."""


def embedded(stage: Round, *, messages: int, busy: bool) -> Metrics:
    """The broker runs inside a Python program."""
    config = {
        "listeners": [TCP],
        "storage": f"mmap:{stage.place / 'data'}",
        "retention": hermes_rounds.RETENTION,
    }
    broker = Broker(*start_embedded(stage, REFERENCE, config=config, busy=busy))
    return hermes_rounds.client_throughput(stage, broker=broker, messages=messages)


def question(scale: Scale) -> Question:
    """Pairs: quiet and contended."""
    messages = scale.pick(2_000_000, 50_000)
    contestants = []
    for title, busy, how in PAIRS:
        run = partial(hermes_rounds.client_throughput, messages=messages, **how)
        contestants += [
            Contestant(f"{title}, alone", run, "control"),
            Contestant(f"{title}, beside a busy thread", partial(run, busy=busy)),
        ]
    contestants += [
        Contestant(
            f"broker embedded in a program that is {title}",
            partial(embedded, messages=messages, busy=title == "busy"),
            "batch API at both ends",
        )
        for title in ("idle", "busy")
    ]
    return Question(
        name="contended",
        asks="Beside a busy Python thread of the same process (256 B)",
        contestants=tuple(contestants),
        rounds=3,
    )
