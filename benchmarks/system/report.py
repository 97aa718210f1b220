"""Plays questions, judges targets, keeps the result: one JSON file, the source of all tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.system.harness import ROOT, Failed, Question, Scale, Stage, Target

PACKAGES = ("hermes-broker", "pyzmq", "msgspec", "numpy", "cffi")


def environment(directory: Path) -> dict[str, Any]:
    """Everything a figure depends on."""

    def output(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
        return done.stdout.strip()

    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    memory = Path("/proc/meminfo").read_text().splitlines()[0].split()[1]
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    try:
        import zmq

        versions["libzmq"] = zmq.zmq_version()
    except ImportError:
        pass
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": output("git", "rev-parse", "--short=12", "HEAD"),
        "dirty": output("git", "status", "--porcelain", "--untracked-files=no") != "",
        "cpu": cpu[0].split(":", 1)[1].strip() if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(memory) * 1024,
        "hypervisor": output("systemd-detect-virt", "--vm"),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "compiler": output(os.environ.get("CC", "cc"), "--version").partition("\n")[0],
        "file_system": output("df", "--output=fstype", str(directory)).split()[-1],
        "load_before": os.getloadavg()[0],
        "versions": versions,
    }


def play(question: Question, scale: Scale, rounds: int) -> dict[str, Any]:
    """All contestants, in turn, round by round."""
    rounds = min(rounds, question.rounds or rounds)
    samples: dict[str, list[Mapping[str, float]]] = {c.name: [] for c in question.contestants}
    errors: dict[str, str] = {}
    for number in range(rounds):
        for contestant in question.contestants:
            if contestant.name in errors:
                continue
            _progress(f"{question.name}: round {number + 1} of {rounds}: {contestant.name}")
            try:
                with Stage(scale) as stage:
                    samples[contestant.name].append(contestant.run(stage))
            except (Failed, OSError, ValueError) as error:
                errors[contestant.name] = f"{type(error).__name__}: {error}"
    rows = [
        {
            "name": contestant.name,
            "note": contestant.note,
            "error": errors.get(contestant.name),
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
