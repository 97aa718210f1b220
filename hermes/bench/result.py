"""A run as one JSON object: ``rows``, one for each thing measured, and ``environment``.

``docs/benchmarks.md`` documents every field.  Code that draws or prints a run starts from here.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes.bench import machine
from hermes.bench.contestant import Contestant, Job
from hermes.bench.histogram import PERCENTILES, curve, encoded, merged, summary, write_hgrm
from hermes.bench.measuring import Sample
from hermes.bench.rounds import Found, Plan

FORMAT = 1
Row = dict[str, Any]
Result = dict[str, Any]


def result(found: Sequence[Found], plan: Plan, environment: Mapping[str, Any]) -> Result:
    """The whole of it.  ``environment``: from before the run."""
    rows = [row for each in found for row in _rows_of(each, plan)]
    processes = 2 + max((job.publishers + job.subscribers for job in plan.jobs), default=2) - 1
    return {
        "format": FORMAT,
        "rows": rows,
        "environment": {
            **environment,
            "load_after": round(os.getloadavg()[0], 2),
            "warnings": machine.warnings(
                environment, idle=plan.conditions.idle, processes=processes
            ),
        },
        "method": method(plan),
        "plan": {
            "repeat": plan.repeat,
            "duration_s": round(plan.length.seconds, 3),
            "messages": plan.length.messages,
            "idle": plan.conditions.idle,
            "storage": plan.conditions.storage,
            "pin": plan.pin,
            "log_warm": plan.conditions.warm,
        },
    }


def method(plan: Plan) -> list[str]:
    """How it was measured, in sentences."""
    conditions = plan.conditions
    length = (
        f"{plan.length.messages:,} messages"
        if plan.length.messages
        else f"about {plan.length.seconds:.3g} s"
    )
    log = (
        "first filled past its retention, so that its memory is in use again"
        if conditions.warm
        else "new, so that every page of it is touched for the first time"
    )
    return [
        "Broker, publishers and subscribers are processes of their own; a row that differs says so.",
        f"Each measured pass lasts {length}, after warm-up passes of the same shape; "
        f"{plan.repeat} {'round' if plan.repeat == 1 else 'rounds'}, in which the contestants take "
        "turns, so that a machine that slows down slows all of them.",
        "Rates are medians over the rounds, from the first send to the last receipt of the last "
        "subscriber; a fan-out's are deliveries to all subscribers together. Each has the lowest and "
        "the highest round beside it.",
        "Latency is one way, under a schedule that is fixed beforehand (open loop): it counts from "
        "the time at which a message was due, so that a stall shows in every message that it held "
        "up. Round trips are closed-loop ping-pong: publish, receive one's own subscription.",
        "Percentiles are of all messages of all rounds, from HDR histograms with three significant "
        "digits; the best and the worst round stand beside them.",
        "Sent and delivered are counted at the ends; what is missing when nothing comes any more is "
        "lost, and shown.",
        f"Who waits does it so: {conditions.idle}. Logs: {conditions.storage}; for throughput and "
        f"fan-out {log}. Processes are {'' if plan.pin else 'not '}pinned to cores.",
        "Processor seconds are per million messages published, of each kind of process. A row is "
        "marked as disturbed if other programs, or the host, took over 10 % of all cores in one of "
        "its rounds.",
    ]


def _rows_of(found: Found, plan: Plan) -> list[Row]:
    """The rows that were measured; a reason where nothing was, or not everything."""
    contestant = found.contestant
    rows = [
        _row(contestant, job, samples)
        for job in plan.jobs
        if (samples := found.samples.get(job)) is not None
    ]
    reason = found.obstacle or found.failure
    if reason is not None:
        rows.append(_reason(contestant, reason, failed=found.failure is not None))
    elif not rows:
        rows.append(_reason(contestant, "it cannot do what was asked for", failed=False))
    return rows


def _reason(contestant: Contestant, reason: str, *, failed: bool) -> Row:
    return {
        "transport": contestant.name,
        "kind": contestant.kind,
        "measure": None,
        "error": reason,
        "failed": failed,
    }


def _row(contestant: Contestant, job: Job, samples: Sequence[Sample]) -> Row:
    histogram = merged(sample.histogram for sample in samples if sample.histogram)
    names = [name for name, _ in PERCENTILES]
    latency = summary(histogram)
    late = [sample.late_us for sample in samples if sample.late_us is not None]
    kinds = dict.fromkeys(kind for sample in samples for kind in sample.cpu_s_per_million)
    culprits = [sample.culprit for sample in samples if sample.disturbed and sample.culprit]
    row: Row = {
        "transport": contestant.name,
        "kind": contestant.kind,
        "measure": job.measure,
        "size": job.size,
        "rate": job.rate,
        "publishers": job.publishers,
        "subscribers": job.subscribers,
        "api": contestant.api(job),
        "sent": sum(sample.sent for sample in samples),
        "delivered": sum(sample.delivered for sample in samples),
        "lost": sum(sample.lost for sample in samples),
        "duplicates": sum(sample.duplicates for sample in samples),
        "disordered": sum(sample.disordered for sample in samples),
        "msgs_per_s": _round(statistics.median(sample.msgs_per_s for sample in samples)),
        **{name: _round(value) for name, value in latency.items()},
        **({"generator_late_us": _round(max(late))} if late else {}),
        "spread": {
            "msgs_per_s": _bounds(sample.msgs_per_s for sample in samples),
            **{
                name: _bounds(sample.latency[name] for sample in samples if sample.latency)
                for name in names
                if latency
            },
        },
        "cpu_s_per_million": {
            kind: _round(
                statistics.median(sample.cpu_s_per_million.get(kind, 0.0) for sample in samples)
            )
            for kind in kinds
        },
        "rounds": [_round_of(sample) for sample in samples],
        "disturbed": any(sample.disturbed for sample in samples),
        "elsewhere": _round(max(sample.elsewhere for sample in samples)),
        "culprit": culprits[0] if culprits else "",
        "note": contestant.note,
        "error": None,
    }
    if latency:
        row["curve"] = [[round(share, 6), _round(value)] for share, value in curve(histogram)]
        row["histogram"] = encoded(histogram)
    return row


def _round_of(sample: Sample) -> dict[str, Any]:
    return {
        "msgs_per_s": _round(sample.msgs_per_s),
        "sent": sample.sent,
        "lost": sample.lost,
        "seconds": _round(sample.seconds),
        **{name: _round(value) for name, value in sample.latency.items()},
        "elsewhere": _round(sample.elsewhere),
    }


def _bounds(values: Iterable[float]) -> list[float]:
    listed = list(values)
    return [_round(min(listed)), _round(max(listed))]


def _round(value: float) -> float:
    """Four digits that count: more is noise, and makes files large."""
    return float(f"{value:.4g}") if abs(value) < 1e4 else float(round(value))


def failed(rows: Iterable[Row]) -> list[Row]:
    """The reasons that are failures: who started and did not get through."""
    return [row for row in rows if row.get("failed")]


def write_histograms(rows: Iterable[Row], directory: Path) -> list[Path]:
    """A ``.hgrm`` file for each row that has latencies."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for row in rows:
        if "histogram" not in row:
            continue
        rate = f"-{row['rate']:.0f}" if row["rate"] else ""
        name = "".join(c if c.isalnum() else "-" for c in row["transport"])
        path = directory / f"{name}-{row['measure']}-{row['size']}{rate}.hgrm"
        write_hgrm(merged([row["histogram"]]), path)
        written.append(path)
    return written
