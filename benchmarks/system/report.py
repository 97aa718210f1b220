"""Plays questions, judges targets, keeps the result: one JSON file, the source of all tables."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.system.harness import Failed, Question, Round, Scale, Target
from hermes.bench import machine


def environment(directory: Path) -> dict[str, Any]:
    """Everything a figure depends on."""
    found = machine.environment(directory)
    try:
        import zmq

        found["versions"] |= {"libzmq": zmq.zmq_version()}
    except ImportError:
        pass
    return found


def play(question: Question, scale: Scale, rounds: int) -> dict[str, Any]:
    """All contestants, in turn, round by round."""
    rounds = min(rounds, question.rounds or rounds)
    samples: dict[str, list[Mapping[str, float]]] = {c.name: [] for c in question.contestants}
    errors: dict[str, str] = {}
    disturbed: set[str] = set()
    for number in range(rounds):
        for contestant in question.contestants:
            if contestant.name in errors:
                continue
            _progress(f"{question.name}: round {number + 1} of {rounds}: {contestant.name}")
            try:
                with Round(scale, pinned=contestant.pinned) as stage:
                    samples[contestant.name].append(contestant.run(stage))
                    disturbed |= {contestant.name} if stage.disturbed else set()
            except (Failed, OSError, ValueError) as error:
                errors[contestant.name] = f"{type(error).__name__}: {error}"
    rows = [
        {
            "name": contestant.name,
            "note": contestant.note,
            "error": errors.get(contestant.name),
            "disturbed": contestant.name in disturbed,
            "metrics": _summary(samples[contestant.name]),
        }
        for contestant in question.contestants
    ]
    return {
        "name": question.name,
        "asks": question.asks,
        "notes": list(question.notes),
        "rounds": rounds,
        "rows": rows,
        "targets": [judge(target, rows) for target in question.targets],
    }


def _summary(samples: list[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    names = list(samples[0]) if samples else []
    return {
        name: {
            "median": statistics.median(sample[name] for sample in samples),
            "min": min(sample[name] for sample in samples),
            "max": max(sample[name] for sample in samples),
            "rounds": [sample[name] for sample in samples],
        }
        for name in names
    }


def judge(target: Target, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether ``target`` was reached: null if one of the figures is missing."""
    medians = {
        (row["name"], name): values["median"]
        for row in rows
        for name, values in row["metrics"].items()
    }
    value = medians.get((target.row, target.metric))
    if value is not None and target.of:
        others = [medians.get((row, target.of_metric or target.metric)) for row in target.of]
        present = [other for other in others if other is not None]
        best = (min if target.at_most else max)(present) if present else None
        value = value / best if best else None
    reached = None
    if value is not None:
        reached = value <= target.limit if target.at_most else value >= target.limit
    return {
        "text": target.text,
        "value": value,
        "limit": target.limit,
        "at_most": target.at_most,
        "ratio": bool(target.of),
        "reached": reached,
    }


def write(result: Mapping[str, Any], path: Path) -> None:
    """Keep the result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
