"""A run as one HTML page that needs nothing else: pictures, tables, method, environment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hermes.bench import charts, svg
from hermes.bench.markup import NOTHING, Markup, element, join, trusted

Row = dict[str, Any]

STYLE = """
*{box-sizing:border-box}
html{background:var(--paper);color:var(--ink);-webkit-text-size-adjust:100%}
body{font:15px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;margin:0 auto;
max-width:1180px;padding:28px 20px 60px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:18px;margin:44px 0 4px}
p{margin:6px 0;max-width:75ch}
.quiet{color:var(--quiet)}
.notes{border-left:3px solid var(--c5);padding:2px 0 2px 14px;margin:18px 0}
.notes ul,.method{margin:0;padding-left:18px;max-width:85ch}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:22px 34px;
margin-top:14px}
figure{margin:0;min-width:0}
svg.plot{display:block;width:100%;height:auto;max-width:620px}
.wide{overflow-x:auto;margin-top:14px}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;
white-space:nowrap;min-width:100%}
th,td{padding:5px 12px 5px 0;text-align:right;border-bottom:1px solid var(--faint)}
th{color:var(--quiet);font-weight:500;border-bottom-color:var(--rule);vertical-align:bottom}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}
tr.control td{color:var(--quiet)}
td.text{text-align:left;white-space:normal;min-width:16em}
.swatch{display:inline-block;width:9px;height:9px;border-radius:2px;margin-right:7px}
.bad{color:var(--c6);font-weight:600}
.mark{color:var(--c2)}
details{margin-top:30px}
summary{cursor:pointer;font-weight:600}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;margin:10px 0;font-size:14px}
dt{color:var(--quiet)}dd{margin:0;overflow-wrap:anywhere}
@media(max-width:560px){body{padding:20px 14px 40px}h1{font-size:22px}h2{margin-top:34px}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:6px}}
"""

TITLES = {
    "throughput": ("Throughput", "One publisher and one subscriber, batches at both ends."),
    "latency": (
        "Latency under a fixed load",
        "One way, from the time at which a message was due to the subscriber's hands. A hollow point: "
        "less than 97 % of the offered load got through.",
    ),
    "round_trip": ("Round trip", "Publish one message, receive it, then the next."),
    "fanout": ("Fan-out", "Deliveries to all subscribers together."),
}


def page(result: dict[str, Any]) -> str:
    """The page."""
    rows = [row for row in result["rows"] if row["measure"] is not None]
    palette = charts.Palette(result["rows"])
    environment = result["environment"]
    head = [
        _meta(charset="utf-8"),
        _meta(name="viewport", content="width=device-width,initial-scale=1"),
        _meta(name="color-scheme", content="light dark"),
        element("title", "Hermes benchmark"),
        element("style", trusted(f"{svg.variables()}{svg.STYLE}{STYLE}")),
    ]
    body = [
        element("h1", "Hermes benchmark"),
        element("p", surroundings(environment), class_="quiet"),
        _warnings(environment.get("warnings", []), rows),
        *(_section(measure, rows, palette) for measure in TITLES),
        _reasons(result["rows"]),
        _method(result),
    ]
    whole = element("html", element("head", *head), "\n", element("body", *body), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _meta(**attributes: str) -> Markup:
    return trusted(element("meta", **attributes).removesuffix("</meta>"))  # it has no end


def surroundings(environment: dict[str, Any]) -> str:
    """Where and when, in a line."""
    commit = environment.get("commit")
    parts = [
        environment["date"],
        f"Hermes {environment['versions'].get('hermes-broker', '')}"
        + (f" at {commit}" if commit else ""),
        f"{environment['cpu']}, {environment['cores']} cores",
        f"Linux {environment['kernel']}",
        f"Python {environment['python']}",
    ]
    trip = environment.get("core_round_trip_ns")
    if trip is not None:
        parts.append(f"core to core and back {trip} ns")
    return " · ".join(parts)


def pictures(measure: str, rows: Sequence[Row], *, alone: bool = False) -> dict[str, Markup]:
    """The pictures of one measure, by a name for each."""
    palette = charts.Palette(rows)
    return _pictures(measure, [row for row in rows if row["measure"] == measure], palette, alone)


def _pictures(
    measure: str, rows: Sequence[Row], palette: charts.Palette, alone: bool
) -> dict[str, Markup]:
    found: dict[str, Markup] = {}
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    if measure in ("throughput", "fanout"):
        for size in sizes:
            mine = [row for row in rows if row["size"] == size]
            title = f"{size:,} B"
            if measure == "fanout":
                title += f" to {mine[0]['subscribers']} subscribers"
            found[f"{measure}-{size}"] = charts.bars(mine, palette, title, alone=alone)
        return found
    for size in sizes:
        mine = [row for row in rows if row["size"] == size]
        if measure == "latency":
            for metric, word in (("p50_us", "median"), ("p99_us", "99th percentile")):
                title = f"{word[0].upper()}{word[1:]} over offered load, {size:,} B"
                drawn = charts.loads(mine, palette, metric, title, alone=alone)
                found[f"load-{metric[:-3]}-{size}"] = drawn
        for rate in dict.fromkeys(row["rate"] for row in mine):
            title = f"{size:,} B" + (f" at {rate:,.0f} a second" if rate else "")
            drawn = charts.percentiles(
                [row for row in mine if row["rate"] == rate], palette, title, alone=alone
            )
            found[f"{measure}-{size}" + (f"-{rate:.0f}" if rate else "")] = drawn
    return {name: drawn for name, drawn in found.items() if drawn}


def _section(measure: str, rows: Sequence[Row], palette: charts.Palette) -> Markup:
    mine = [row for row in rows if row["measure"] == measure]
    if not mine:
        return NOTHING
    title, what = TITLES[measure]
    figures = [element("figure", one) for one in _pictures(measure, mine, palette, False).values()]
    apis = dict.fromkeys(row["api"] for row in mine if row["kind"] != "control")
    api = f" Measured with: {'; '.join(apis)}." if apis else ""
    return join(
        [
            element("h2", title, id=measure),
            element("p", what + api, class_="quiet"),
            element("div", *figures, class_="grid"),
            _table(measure, mine, palette),
        ]
    )


def _table(measure: str, rows: Sequence[Row], palette: charts.Palette) -> Markup:
    timed = measure in ("latency", "round_trip")
    heads = ["", "size"]
    heads += ["offered/s"] if measure == "latency" else []
    heads += ["messages/s"] + ([] if timed else ["lowest to highest"])
    heads += ["p50", "p99", "p99.9", "max"] if timed else []
    heads += ["sent", "lost", "CPU s per million", ""]
    lines = [element("tr", *(element("th", head) for head in heads))]
    for row in rows:
        cells = [f"{row['size']:,} B"]
        cells += [f"{row['rate']:,.0f}"] if measure == "latency" else []
        cells.append(charts.count(row["msgs_per_s"]))
        if not timed:
            cells.append(" to ".join(map(charts.count, row["spread"]["msgs_per_s"])))
        else:
            keys = ("p50_us", "p99_us", "p999_us", "max_us")
            cells += [duration(row[key]) if key in row else "" for key in keys]
        lost = element("span", f"{row['lost']:,}", class_="bad") if row["lost"] else "0"
        cpu = ", ".join(f"{kind} {value:.3g}" for kind, value in row["cpu_s_per_million"].items())
        cells += [f"{row['sent']:,}", lost, cpu, _mark(row)]
        colour = f"background:var(--{palette[row['transport']]})"
        swatch = element("span", class_="swatch", style=colour)
        name = element("td", swatch, row["transport"], title=row["note"])
        kind = "control" if row["kind"] == "control" else ""
        lines.append(element("tr", name, *(element("td", cell) for cell in cells), class_=kind))
    return _wide(lines)


def _wide(lines: Iterable[Markup]) -> Markup:
    return element("div", element("table", *lines), class_="wide")


def _mark(row: Row) -> Markup:
    if not row["disturbed"]:
        return NOTHING
    who = f" ({row['culprit']})" if row["culprit"] else ""
    tip = f"other programs took {row['elsewhere']:.0%} of all cores{who}"
    return element("span", f"disturbed, {row['elsewhere']:.0%}", class_="mark", title=tip)


def duration(us: float) -> str:
    """Three digits and the unit that fits."""
    for unit, factor in (("s", 1e6), ("ms", 1e3)):
        if us >= factor:
            return f"{us / factor:.3g} {unit}"
    return f"{us:.3g} µs" if us >= 1 else f"{us * 1e3:.3g} ns"


def _warnings(said: Iterable[str], rows: Sequence[Row]) -> Markup:
    listed = [*said]
    disturbed = sum(row["disturbed"] for row in rows)
    if disturbed:
        listed.append(
            f"{disturbed} of {len(rows)} rows were disturbed by other programs on this machine; "
            "they are marked"
        )
    if not listed:
        return NOTHING
    items = [element("li", item) for item in listed]
    return element("div", element("ul", *items), class_="notes")


def _reasons(rows: Sequence[Row]) -> Markup:
    missing = [row for row in rows if row["measure"] is None]
    if not missing:
        return NOTHING
    lines = [
        element("tr", element("td", row["transport"]), element("td", row["error"], class_="text"))
        for row in missing
    ]
    return join([element("h2", "Not measured"), _wide(lines)])


def _method(result: dict[str, Any]) -> Markup:
    sentences = [element("li", sentence) for sentence in result["method"]]
    facts = [
        join([element("dt", name.replace("_", " ")), element("dd", _plain(value))])
        for name, value in result["environment"].items()
        if name != "warnings"
    ]
    return join(
        [
            element("h2", "Method"),
            element("ul", *sentences, class_="method"),
            element("details", element("summary", "Environment"), element("dl", *facts)),
        ]
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return "unknown" if value is None else str(value)
