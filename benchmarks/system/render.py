"""Turns a result into the tables of ``docs/benchmarks.md``, between its two markers.

    python -m benchmarks.system.render RESULT.json [DOCUMENT]

Without a document the tables go to standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.publish import insert

MARKERS = (
    "<!-- tables: written by benchmarks.system.render, do not edit -->",
    "<!-- end of tables -->",
)

HEADINGS = {
    "messages_per_s": "messages/s",
    "deliveries_per_s": "deliveries/s",
    "gigabytes_per_s": "GB/s",
    "p50_us": "p50, us",
    "p99_us": "p99, us",
    "p999_us": "p99.9, us",
    "all_p99_us": "p99 of all, us",
    "all_p999_us": "p99.9 of all, us",
    "max_us": "largest, us",
    "over_300_us_percent": "over 300 us, %",
    "ns": "ns",
    "bytes_each": "bytes each",
    "per_cpu_second": "messages per CPU second of the broker",
    "calls_per_message": "system calls of the broker, a message",
    "broker_cpu_ns": "broker CPU, ns/message",
    "publisher_cpu_ns": "publisher CPU",
    "subscriber_cpu_ns": "subscribers CPU",
    "lag_mib": "lag, MiB",
    "growth_mib": "growth, MiB",
}


def figure(value: float) -> str:
    """A number as a person would write it: three digits that count, or thousands with a comma."""
    if value == int(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    for size, suffix in ((1e9, " G"), (1e6, " M")):
        if abs(value) >= size:
            return f"{value / size:.{_decimals(value / size)}f}{suffix}"
    return f"{value:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0


def heading(metric: str) -> str:
    """The head of a column."""
    return HEADINGS.get(metric, metric.replace("_", " "))


def _cell(metric: str, values: Mapping[str, Any] | None) -> str:
    if values is None:
        return ""
    text = figure(values["median"])
    if len(values["rounds"]) > 1 and not metric.endswith("_cpu_ns"):
        text += f" ({figure(values['min'])} to {figure(values['max'])})"
    return text


def _note(row: Mapping[str, Any]) -> str:
    mark = "disturbed by other programs" if row.get("disturbed") else ""
    return "; ".join(filter(None, [row["error"] or row["note"], mark]))


def _table(header: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "|".join([" --- "] + [" ---: "] * (len(header) - 1)) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def question(result: Mapping[str, Any]) -> Iterator[str]:
    """One question's section."""
    yield f"### {result['asks']}"
    yield ""
    metrics = [*dict.fromkeys(name for row in result["rows"] for name in row["metrics"])]
    notes = {row["name"]: _note(row) for row in result["rows"]}
    noted = any(notes.values())
    yield from _table(
        ["", *map(heading, metrics), *(["note"] if noted else [])],
        (
            [
                row["name"],
                *(_cell(name, row["metrics"].get(name)) for name in metrics),
                *([notes[row["name"]]] if noted else []),
            ]
            for row in result["rows"]
        ),
    )
    yield ""
    for target in result["targets"]:
        yield f"- {verdict(target)}"
    for note in result["notes"]:
        yield f"- {note}"
    yield ""


def verdict(target: Mapping[str, Any]) -> str:
    """A target, what came of it, and whether that is enough."""
    if target["value"] is None:
        return f"{target['text']}: not measured"
    sign = "x" if target["ratio"] else ""
    wanted = f"{'at most' if target['at_most'] else 'at least'} {figure(target['limit'])}{sign}"
    reached = "reached" if target["reached"] else "**not reached**"
    return f"{target['text']}: {figure(target['value'])}{sign} ({wanted}): {reached}"


def surroundings(environment: Mapping[str, Any]) -> Iterator[str]:
    """The place and time of the run."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    changed = " with uncommitted changes" if environment["dirty"] else ""
    yield (
        f"{environment['date']}, commit `{environment['commit']}`{changed}; {environment['cpu']}, "
        f"{environment['cores']} cores, {environment['memory_bytes'] / 2**30:.0f} GiB, "
        f"hypervisor: {environment['hypervisor']}; Linux {environment['kernel']}, "
        f"{environment['file_system']}; Python {environment['python']}, {environment['compiler']}; "
        f"{versions}."
    )
    yield ""


def render(result: Mapping[str, Any]) -> str:
    """All tables."""
    lines = [*surroundings(result["environment"])]
    if result["quick"]:
        lines += ["**A quick run: small volumes, one round; the figures mean little.**", ""]
    lines.append(
        "Medians over the rounds (lowest to highest). Contestants take turns in each round."
    )
    lines.append("")
    for part in result["questions"]:
        lines += question(part)
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str]) -> None:
    """The command line."""
    if len(arguments) not in (1, 2):
        raise SystemExit(__doc__)
    tables = render(json.loads(Path(arguments[0]).read_text()))
    if len(arguments) == 2:
        insert(Path(arguments[1]), MARKERS, tables)
    else:
        print(tables, end="")


if __name__ == "__main__":
    main(sys.argv[1:])
