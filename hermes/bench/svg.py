"""Drawings in SVG, by hand: elements, scales and axes.  Knows nothing of benchmarks.

A drawing scales with the room it has; its colours are CSS variables (:data:`STYLE`), so that it
follows the reader's preference for light or dark, inside a page and on its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hermes.bench.markup import NOTHING, Markup, element, join, number, trusted

FONT_PX = 12.5
CHARACTER_PX = 0.56 * FONT_PX
"""Width of a character, about: text is not measured here."""

LIGHT = (
    "--ink:#1c1d22;--quiet:#686b76;--faint:#e4e5ea;--rule:#c9cbd3;--paper:#fff;"
    "--c1:#2a6fd6;--c2:#d9480f;--c3:#0f8a5f;--c4:#8b3fc7;--c5:#b8860b;--c6:#c2255c;--c7:#0b7f93;"
    "--c8:#5c6b1f;--k1:#5f6370;--k2:#878b98;--k3:#a9adb8"
)
DARK = (
    "--ink:#e9eaee;--quiet:#9a9dab;--faint:#2b2d36;--rule:#4a4d59;--paper:#17181d;"
    "--c1:#6ea8ff;--c2:#ff8a50;--c3:#43c796;--c4:#c490ff;--c5:#e3b341;--c6:#ff7ba6;--c7:#4cc9dd;"
    "--c8:#b5c95a;--k1:#a4a8b5;--k2:#7f8391;--k3:#636774"
)
COLOURS = 8
GREYS = 3
STYLE = (
    "svg.plot{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;"
    f"font-size:{FONT_PX}px;font-variant-numeric:tabular-nums}}"
    ".plot text{fill:var(--ink)}.plot .quiet{fill:var(--quiet)}.plot .end{text-anchor:end}"
    ".plot .middle{text-anchor:middle}.plot .title{font-weight:600;font-size:14px}"
    ".plot .grid{stroke:var(--faint);stroke-width:1}.plot .axis{stroke:var(--rule);stroke-width:1}"
    ".plot .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}"
    ".plot .floor{stroke-width:1.5;stroke-dasharray:5 3}"
    ".plot .whisker{stroke:var(--ink);stroke-width:1.25;opacity:.75}"
    ".plot .dot{stroke:var(--paper);stroke-width:1.5}"
    ".plot .hollow{fill:var(--paper);stroke-width:2}"
)
"""Style of every drawing, beside the variables."""


def variables() -> str:
    """The colours, by the reader's preference."""
    return f":root{{{LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{DARK}}}}}"


def text(x: float, y: float, said: str, class_: str = "") -> Markup:
    """Some words."""
    return element("text", said, x=x, y=y, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(
    points: Iterable[tuple[float, float]], class_: str, colour: str, title: str = ""
) -> Markup:
    """A line through points, with a tooltip."""
    steps = [f"{number(x)} {number(y)}" for x, y in points]
    tip = element("title", title) if title else NOTHING
    style = f"stroke:var(--{colour})"
    return element("path", tip, d="M" + "L".join(steps), class_=class_, style=style)


@dataclass(frozen=True, slots=True)
class Log:
    """A logarithmic scale from values to pixels."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        whole = math.log(self.high / self.low)
        share = math.log(max(value, self.low) / self.low) / whole if whole else 0.0
        return self.start + min(1.0, share) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Powers of ten in the range; twos and fives too if those are few."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        steps = (1, 2, 5) if last - first <= 2 else (1,)
        found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        return [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]


@dataclass(frozen=True, slots=True)
class Linear:
    """A scale that begins at zero."""

    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + min(value, self.high) / self.high * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Four or so round numbers."""
        raw = self.high / 4
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
        return [step * number for number in range(int(self.high / step) + 1)]


def legend(
    entries: Sequence[tuple[str, str, bool]], *, x: float, y: float, width: float
) -> tuple[Markup, float]:
    """Names beside a piece of their line (name, colour, whether it is a floor); returns the
    drawing and the height it takes."""
    drawn, left, top = [], x, y
    for name, colour, is_floor in entries:
        wide = 42 + len(name) * CHARACTER_PX
        if left > x and left + wide > x + width:
            left, top = x, top + 19
        style = "line floor" if is_floor else "line"
        drawn.append(path([(left, top - 4), (left + 18, top - 4)], style, colour))
        drawn.append(text(left + 23, top, name, "quiet" if is_floor else ""))
        left += wide
    return join(drawn), top - y + 19 if entries else 0.0


def drawing(
    content: Markup, *, width: float, height: float, label: str, alone: bool = False
) -> Markup:
    """The whole; ``alone``: with its style, as a file of its own."""
    style = element("style", trusted(variables() + STYLE)) if alone else NOTHING
    ground = (
        element("rect", width=width, height=height, style="fill:var(--paper)") if alone else NOTHING
    )
    attributes = {"xmlns": "http://www.w3.org/2000/svg"} if alone else {}
    return element(
        "svg",
        style,
        ground,
        element("title", label),
        content,
        **attributes,
        viewBox=f"0 0 {width:g} {height:g}",
        class_="plot",
        role="img",
    )
