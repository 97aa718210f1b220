"""The pictures of a run: percentile curves, bars with error bars, latency over offered load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hermes.bench import svg
from hermes.bench.markup import NOTHING, Markup, element, join

Row = dict[str, Any]

WIDTH = 520.0
LEFT, RIGHT, TOP = 58.0, 16.0, 34.0
PLOT_HEIGHT = 230.0
BAR_PX, BAR_GAP_PX = 17.0, 11.0
LABEL_MAX = 20
"""Characters of a name beside a bar."""
CUT = 1.25
"""A control's bar is cut where it is longer than the longest other one times this."""
SATURATED = 0.97
"""Share of the offered load: points with less throughput are drawn hollow."""
SHARES = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


class Palette:
    """A colour for each contestant, the same in every picture; controls are grey."""

    def __init__(self, rows: Sequence[Row]) -> None:
        names = dict.fromkeys((row["transport"], row["kind"] == "control") for row in rows)
        measured = [name for name, control in names if not control]
        controls = [name for name, control in names if control]
        self._colours = {
            name: f"c{number % svg.COLOURS + 1}" for number, name in enumerate(measured)
        } | {name: f"k{number % svg.GREYS + 1}" for number, name in enumerate(controls)}

    def __getitem__(self, name: str) -> str:
        return self._colours[name]


def _us(value: float) -> str:
    for unit, factor in (("s", 1e6), ("ms", 1e3)):
        if value >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g} µs" if value >= 1 else f"{value * 1e3:g} ns"


def count(value: float) -> str:
    """``850``, ``12.3 k``, ``4.56 M``."""
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}"


def _control(row: Row) -> bool:
    return bool(row["kind"] == "control")


def _frame(title: str, x: Any, y: Any, x_ticks: Sequence[tuple[float, str]]) -> list[Markup]:
    """Title, grid and axes; y is logarithmic, in us."""
    drawn = [svg.text(0, 16, title, "title")]
    bottom = TOP + PLOT_HEIGHT
    for tick in y.ticks():
        drawn.append(svg.line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"))
        drawn.append(svg.text(LEFT - 7, y(tick) + 4, _us(tick), "quiet end"))
    for value, said in x_ticks:
        drawn.append(svg.line(x(value), TOP, x(value), bottom, "grid"))
        drawn.append(svg.text(x(value), bottom + 17, said, "quiet middle"))
    drawn.append(svg.line(LEFT, bottom, WIDTH - RIGHT, bottom, "axis"))
    return drawn


def _finished(
    drawn: list[Markup],
    rows: Sequence[Row],
    palette: Palette,
    caption: str,
    title: str,
    alone: bool,
) -> Markup:
    """With what the x axis means, and the legend."""
    under = TOP + PLOT_HEIGHT + 36
    drawn.append(svg.text((LEFT + WIDTH - RIGHT) / 2, under, caption, "quiet middle"))
    entries = [
        (name, palette[name], control)
        for name, control in dict.fromkeys((row["transport"], _control(row)) for row in rows)
    ]
    legend, height = svg.legend(entries, x=4, y=under + 24, width=WIDTH - 8)
    drawn.append(legend)
    return svg.drawing(
        join(drawn), width=WIDTH, height=under + 12 + height, label=title, alone=alone
    )


def _scale(values: Sequence[float]) -> svg.Log:
    low, high = min(values), max(values)
    return svg.Log(low / 1.3, high * 1.3, TOP + PLOT_HEIGHT, TOP)


def percentiles(
    rows: Sequence[Row], palette: Palette, title: str, *, alone: bool = False
) -> Markup:
    """A curve for each row; the x axis is a step per nine."""
    curves = [(row, [(100 / (100 - share), us) for share, us in row["curve"]]) for row in rows]
    curves = [(row, points) for row, points in curves if points]
    if not curves:
        return NOTHING
    y = _scale([us for _, points in curves for _, us in points])
    far = max(points[-1][0] for _, points in curves)
    x = svg.Log(2.0, max(far, 20.0), LEFT, WIDTH - RIGHT)
    ticks = [(100 / (100 - s), f"{s:g} %") for s in SHARES if 100 / (100 - s) <= x.high * 1.001]
    drawn = _frame(title, x, y, ticks)
    for row, points in curves:
        style = "line floor" if _control(row) else "line"
        tip = f"{row['transport']}: p50 {_us(row['p50_us'])}, p99 {_us(row['p99_us'])}, p99.9 " + (
            f"{_us(row['p999_us'])}, max {_us(row['max_us'])}"
        )
        places = [(x(nines), y(us)) for nines, us in points]
        drawn.append(svg.path(places, style, palette[row["transport"]], tip))
    caption = "percentile of messages"
    return _finished(drawn, [row for row, _ in curves], palette, caption, title, alone)


def loads(
    rows: Sequence[Row], palette: Palette, metric: str, title: str, *, alone: bool = False
) -> Markup:
    """A line for each contestant over the offered load; hollow where less got through."""
    rows = [row for row in rows if row.get("rate") and metric in row]
    rates = sorted({row["rate"] for row in rows})
    if len(rates) < 2:
        return NOTHING
    y = _scale([row[metric] for row in rows])
    x = svg.Log(rates[0] / 1.25, rates[-1] * 1.25, LEFT, WIDTH - RIGHT)
    drawn = _frame(title, x, y, [(rate, count(rate)) for rate in rates])
    for name in dict.fromkeys(row["transport"] for row in rows):
        mine = sorted((r for r in rows if r["transport"] == name), key=lambda r: float(r["rate"]))
        colour = palette[name]
        style = "line floor" if _control(mine[0]) else "line"
        drawn.append(svg.path([(x(r["rate"]), y(r[metric])) for r in mine], style, colour, name))
        drawn += [_dot(row, x(row["rate"]), y(row[metric]), colour, metric) for row in mine]
    return _finished(drawn, rows, palette, "messages a second, offered", title, alone)


def _dot(row: Row, x: float, y: float, colour: str, metric: str) -> Markup:
    keeps_up = row["msgs_per_s"] >= SATURATED * row["rate"] * row["subscribers"]
    tip = (
        f"{row['transport']} at {count(row['rate'])}/s: {_us(row[metric])}; "
        f"{count(row['msgs_per_s'])}/s got through"
    )
    return element(
        "circle",
        element("title", tip),
        cx=x,
        cy=y,
        r=3.6,
        class_="dot" if keeps_up else "hollow",
        style=f"{'fill' if keeps_up else 'stroke'}:var(--{colour})",
    )


def bars(rows: Sequence[Row], palette: Palette, title: str, *, alone: bool = False) -> Markup:
    """A bar for each row's rate, with its lowest and highest round.

    Controls that are far longer than everything else are cut, and say so.
    """
    if not rows:
        return NOTHING
    ours = [row["spread"]["msgs_per_s"][1] for row in rows if not _control(row)]
    every = [row["spread"]["msgs_per_s"][1] for row in rows]
    high = min(max(every), CUT * max(ours)) if ours else max(every)
    left = 14 + svg.CHARACTER_PX * min(LABEL_MAX, max(len(row["transport"]) for row in rows))
    x = svg.Linear(high * 1.02, left, WIDTH - 62)
    bottom = TOP + len(rows) * (BAR_PX + BAR_GAP_PX)
    drawn = [svg.text(0, 16, title, "title")]
    for tick in x.ticks():
        drawn.append(svg.line(x(tick), TOP - 4, x(tick), bottom, "grid"))
        drawn.append(svg.text(x(tick), bottom + 15, count(tick), "quiet middle"))
    drawn.append(svg.line(left, TOP - 4, left, bottom, "axis"))
    for number, row in enumerate(rows):
        drawn += _bar(row, x, TOP + number * (BAR_PX + BAR_GAP_PX), palette, high)
    drawn.append(
        svg.text((left + WIDTH - 62) / 2, bottom + 34, "messages a second", "quiet middle")
    )
    return svg.drawing(join(drawn), width=WIDTH, height=bottom + 44, label=title, alone=alone)


def _bar(row: Row, x: svg.Linear, top: float, palette: Palette, high: float) -> list[Markup]:
    rate, (low, most) = row["msgs_per_s"], row["spread"]["msgs_per_s"]
    middle, end, cut = top + BAR_PX / 2, x(rate), rate > high
    name = row["transport"]
    shown = name if len(name) <= LABEL_MAX else name[: LABEL_MAX - 1] + "…"
    tip = f"{name}: {count(rate)}/s, {count(low)} to {count(most)}"
    lost = f" lost {row['lost']:,}" if row["lost"] else ""
    drawn = [
        svg.text(x.start - 8, middle + 4, shown, "end quiet" if _control(row) else "end"),
        element(
            "rect",
            element("title", tip),
            x=x.start,
            y=top,
            width=max(1.0, end - x.start),
            height=BAR_PX,
            rx=2,
            style=f"fill:var(--{palette[name]});opacity:{0.5 if _control(row) else 0.92}",
        ),
    ]
    after = end
    if cut:
        for offset in (16, 10):
            slash = [(end - offset - 3, top + BAR_PX + 3), (end - offset + 3, top - 3)]
            drawn.append(svg.path(slash, "line", "paper"))
    elif most > low:
        after = x(most)
        drawn.append(svg.line(x(low), middle, after, middle, "whisker"))
        drawn += [
            svg.line(x(value), middle - 4, x(value), middle + 4, "whisker") for value in (low, most)
        ]
    drawn.append(svg.text(after + 7, middle + 4, count(rate) + lost, "quiet" if cut else ""))
    return drawn
