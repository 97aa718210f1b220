"""Puts a result of ``hermes bench`` into ``docs/benchmarks.md``: tables, and plots as files beside.

    python -m benchmarks.publish compare [RESULT.json]
    python -m benchmarks.publish rivals [RESULT.json]

Without a result it measures first: all there is, at length, in ``benchmarks/results``.  What stands
between the page's two markers of that name is replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hermes.bench import page
from hermes.bench.charts import count

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"

Row = dict[str, Any]

TITLES = {
    "throughput": "Throughput",
    "latency": "Latency, one way, under a fixed load",
    "round_trip": "Round trip",
    "fanout": "Fan-out",
}


def markers(name: str) -> tuple[str, str]:
    """Lines before and behind the part of the page that is replaced."""
    return f"<!-- {name}: written by benchmarks.publish, do not edit -->", f"<!-- end of {name} -->"


def measure(name: str) -> Path:
    """Run the command, and return its result's file.

    Raises:
        SystemExit: the checkout is not as it was committed: nobody could repeat what it shows.
    """
    if git("status", "--porcelain"):
        raise SystemExit("the checkout has changes: commit them, then measure")
    path = (
        RESULTS
        / f"{name}-{time.strftime('%Y-%m-%d')}-{git('rev-parse', '--short=12', 'HEAD')}.json"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "hermes", "bench", name, "--output", str(path)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    return path  # a run with a failure in it is a result too: it says so


def git(*words: str) -> str:
    """Output of git for this checkout."""
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def tables(result: dict[str, Any], links: dict[str, list[str]]) -> Iterator[str]:
    """The lines of the page; ``links``: plots by measure."""
    yield page.surroundings(result["environment"]) + "."
    yield ""
    yield from (f"- {warning}" for warning in result["environment"]["warnings"])
    rows = [row for row in result["rows"] if row["measure"] is not None]
    disturbed = sum(row["disturbed"] for row in rows)
    if disturbed:
        yield f"- {disturbed} of {len(rows)} rows were disturbed by other programs: marked `*`"
    yield ""
    for measure, title in TITLES.items():
        mine = [row for row in rows if row["measure"] == measure]
        if mine:
            yield f"### {title}"
            yield ""
            yield from (line for link in links.get(measure, []) for line in (link, ""))
            yield from _table(measure, mine)
            yield ""
    missing = [row for row in result["rows"] if row["measure"] is None]
    if missing:
        yield "### Not measured"
        yield ""
        yield from (f"- {row['transport']}: {row['error']}" for row in missing)
        yield ""


def _table(measure: str, rows: Sequence[Row]) -> Iterator[str]:
    timed = measure in ("latency", "round_trip")
    heads = ["", "size, B", *(["offered/s"] if measure == "latency" else [])]
    heads += ["p50", "p99", "p99.9", "max"] if timed else ["messages/s", "lowest to highest"]
    heads += ["lost", "CPU s per million messages", ""]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "|".join([" --- "] + [" ---: "] * (len(heads) - 2) + [" --- "]) + "|"
    for row in rows:
        cells = [row["transport"], f"{row['size']:,}"]
        cells += [f"{row['rate']:,.0f}"] if measure == "latency" else []
        if timed:
            keys = ("p50_us", "p99_us", "p999_us", "max_us")
            cells += [page.duration(row[key]) if key in row else "" for key in keys]
        else:
            low, high = row["spread"]["msgs_per_s"]
            cells += [count(row["msgs_per_s"]), f"{count(low)} to {count(high)}"]
        cpu = ", ".join(f"{kind} {value:.3g}" for kind, value in row["cpu_s_per_million"].items())
        cells += [f"{row['lost']:,}", cpu, "*" if row["disturbed"] else ""]
        yield "| " + " | ".join(cells) + " |"


def plots(name: str, rows: Sequence[Row], document: Path) -> dict[str, list[str]]:
    """Write the plots beside the page; returns links to them, by measure."""
    place = document.parent / document.stem
    place.mkdir(exist_ok=True)
    for old in place.glob(f"{name}-*.svg"):
        old.unlink()
    links: dict[str, list[str]] = {}
    for measure in TITLES:
        drawn = page.pictures(measure, rows, alone=True)
        for picture in _chosen(measure, [*drawn]):
            path = place / f"{name}-{picture.replace('_', '-')}.svg"
            path.write_text(drawn[picture] + "\n", encoding="utf-8")
            link = f"![{picture.replace('-', ' ')}]({document.stem}/{path.name})"
            links.setdefault(measure, []).append(link)
    return links


def _chosen(measure: str, names: Sequence[str]) -> list[str]:
    """Plots of a measure; only the middle one of the percentile curves under load: the page has tables."""
    if measure != "latency":
        return list(names)
    curves = [name for name in names if name.startswith("latency-")]
    loads = [name for name in names if not name.startswith("latency-")]
    return [*loads, *curves[len(curves) // 2 : len(curves) // 2 + 1]]


def insert(document: Path, between: tuple[str, str], body: str) -> None:
    """Replace what stands between two markers.

    Raises:
        SystemExit: the page has no such markers; it is unchanged.
    """
    begin, end = between
    text = document.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{document}: has no lines {begin!r} and {end!r}")
    document.write_text(f"{before}{begin}\n\n{body.strip()}\n\n{end}{after}", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__)
    parser.add_argument("name", choices=["compare", "rivals"])
    parser.add_argument("result", type=Path, nargs="?", help="default: measure first")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    options = parser.parse_args()
    result = json.loads((options.result or measure(options.name)).read_text(encoding="utf-8"))
    if markers(options.name)[0] not in options.document.read_text(encoding="utf-8"):
        raise SystemExit(f"{options.document}: has no line {markers(options.name)[0]!r}")
    links = plots(options.name, result["rows"], options.document)
    insert(options.document, markers(options.name), "\n".join(tables(result, links)))


if __name__ == "__main__":
    main()
