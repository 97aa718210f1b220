"""The page of plots, looked at in a real browser."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hermes.bench import page, svg
from hermes.bench.charts import Palette
from hermes.bench.histogram import curve, histogram_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE, DESK = (390, 900), (1000, 900)
DARK = "--blink-settings=preferredColorScheme=0"
DEADLINE_S = 60


@cache
def climb(speed: float) -> list[tuple[float, float]]:
    """The curve of a latency that grows with the square, made once: it takes long."""
    return curve(histogram_of(int(10_000 / speed + number**2) for number in range(1000)))


def row(transport: str, measure: str, kind: str = "hermes", **more: Any) -> dict[str, Any]:
    """A row as :mod:`hermes.bench.result` makes it, with figures that could be."""
    speed = {"tcp": 1.0, "inproc": 1.6, "C relay, TCP": 7.0}[transport]
    made: dict[str, Any] = {
        "transport": transport, "kind": kind, "measure": measure, "size": 256, "rate": None,
        "publishers": 1, "subscribers": 1, "api": "send; receive", "sent": 1000,
        "delivered": 1000, "lost": 0, "msgs_per_s": 1e6 * speed,
        "spread": {"msgs_per_s": [0.9e6 * speed, 1.1e6 * speed]},
        "cpu_s_per_million": {"broker": 0.25}, "disturbed": False, "elsewhere": 0.0,
        "culprit": "", "note": "", "error": None,
    }  # fmt: skip
    if measure in ("latency", "round_trip"):
        made |= {"p50_us": 20.0, "p99_us": 300.0, "p999_us": 900.0, "max_us": 1010.0 / speed}
        made["curve"] = climb(speed)
    return made | more


def rows() -> list[dict[str, Any]]:
    """Two transports and a control, in every measure; one that was disturbed, one that lost."""
    names = (("tcp", "hermes"), ("inproc", "hermes"), ("C relay, TCP", "control"))
    made = []
    for name, kind in names:
        made += [row(name, measure, kind) for measure in ("throughput", "round_trip", "fanout")]
        made += [
            row(name, "latency", kind, rate=rate, msgs_per_s=min(rate, 4e4))
            for rate in (1e3, 1e4, 1e5)
        ]
    made[0] |= {"disturbed": True, "elsewhere": 0.4, "culprit": "make <all>"}
    made[1]["lost"] = 17
    reason = {"transport": "udp", "kind": "hermes", "measure": None, "error": "no <network> here"}
    return [*made, reason]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A page."""
    environment = {
        "date": "2026-01-31T09:30:00Z", "commit": None, "cpu": "A CPU", "cores": 8,
        "kernel": "6.8", "python": "3.11", "versions": {"hermes-broker": "0.1.0"},
        "core_round_trip_ns": 120, "warnings": ["a <warning>"],
    }  # fmt: skip
    path = tmp_path / "page.html"
    path.write_text(page.page({"rows": rows(), "environment": environment, "method": ["So."]}))
    return path


def pixels(png: bytes) -> set[tuple[int, int, int]]:
    """The colours in a picture of 8 bits a channel, as headless browsers write them."""
    width, _, depth, kind, *_ = struct.unpack(">IIBBBBB", png[16:29])
    channels = {2: 3, 6: 4}[kind]
    assert depth == 8
    data, place = b"", 8
    while place < len(png):
        size, name = struct.unpack(">I4s", png[place : place + 8])
        data += png[place + 8 : place + 8 + size] if name == b"IDAT" else b""
        place += size + 12
    found: set[tuple[int, int, int]] = set()
    raw, stride = zlib.decompress(data), width * channels
    before = bytearray(stride)
    for start in range(0, len(raw), stride + 1):
        line = bytearray(raw[start + 1 : start + 1 + stride])
        _unfilter(raw[start], line, before, channels)
        found.update(zip(line[0::channels], line[1::channels], line[2::channels], strict=True))
        before = line
    return found


def _unfilter(kind: int, line: bytearray, before: bytearray, channels: int) -> None:
    if kind == 0:
        return
    for i in range(len(line)):
        left = line[i - channels] if i >= channels else 0
        above = before[i]
        corner = before[i - channels] if i >= channels else 0
        if kind == 4:
            guess = left + above - corner
            by_left, by_above, by_corner = (
                abs(guess - left), abs(guess - above), abs(guess - corner)
            )  # fmt: skip
            best = above if by_above <= by_corner else corner
            add = left if by_left <= by_above and by_left <= by_corner else best
        else:
            add = {1: left, 2: above, 3: (left + above) // 2}[kind]
        line[i] = (line[i] + add) & 255


def colour(variables: str, name: str) -> tuple[int, int, int]:
    """The value of a CSS variable."""
    (text,) = [
        part[len(name) + 4 :] for part in variables.split(";") if part[2:].startswith(f"{name}:")
    ]
    digits = text if len(text) == 6 else "".join(2 * digit for digit in text)
    return (int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:6], 16))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "flags", "variables"),
    [(DESK, (), svg.LIGHT), (DESK, (DARK,), svg.DARK), (PHONE, (), svg.LIGHT)],
    ids=["light", "dark", "phone"],
)
def test_a_browser_draws_it(
    written: Path, tmp_path: Path, size: tuple[int, int], flags: tuple[str, ...], variables: str
) -> None:
    """Paper, ink, and the colour of each transport are in the picture, of that scheme."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("NO BROWSER: the page was not looked at; install chromium to have it checked")
    picture = tmp_path / "page.png"

    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"),
            *(f"--window-size={size[0]},{size[1]}", *flags, written.as_uri()),
        ],
        check=True,
        capture_output=True,
        timeout=DEADLINE_S,
    )

    found = pixels(picture.read_bytes())
    for name in ("paper", "ink", "c1", "c2"):
        assert _near(colour(variables, name), found), name


def _near(wanted: tuple[int, int, int], found: set[tuple[int, int, int]]) -> bool:
    """Bars are a little transparent."""
    return any(all(abs(a - b) <= 24 for a, b in zip(wanted, seen, strict=True)) for seen in found)


def test_what_others_say_is_escaped(written: Path) -> None:
    """Command lines, reasons and warnings cannot become markup."""
    text = written.read_text()

    assert "make &lt;all&gt;" in text
    assert "no &lt;network&gt; here" in text
    assert "a &lt;warning&gt;" in text


def test_no_text_of_a_run_becomes_markup() -> None:
    """With any text in a run, in texts, tooltips, attributes and pictures of their own, the page
    has the same elements as with harmless text, and no attribute more."""

    class Elements(HTMLParser):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.found: list[tuple[str, list[str]]] = []
            self.feed(text)

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found.append((tag, [name for name, _ in attrs if name != "title"]))

    def made(text: str) -> list[str]:
        listed = rows()
        for one in listed:
            one["transport"] += text
            if one["measure"] is None:
                one["error"] = text
            else:
                one |= {"note": text, "api": text, "culprit": text, "disturbed": True}
                one["cpu_s_per_million"] = {text: 0.5}
        environment = {
            "date": text, "commit": text, "cpu": text, "cores": 8, "kernel": text, "python": text,
            "versions": {"hermes-broker": text}, "core_round_trip_ns": 120, "warnings": [text], text: text,
        }  # fmt: skip
        drawn = [*page.pictures("latency", listed, alone=True).values()]
        drawn += page.pictures("fanout", listed, alone=True).values()
        whole = page.page({"rows": listed, "environment": environment, "method": [text]})
        return [whole, *drawn]

    evil = "\"'><img src=x onerror=alert(1)></title></style><script>&\x1b]0;x\x07"
    for harmless, suspect in zip(made("abc"), made(evil), strict=True):
        assert Elements(suspect).found == Elements(harmless).found
        assert not {"\x1b", "\x07"} & set(suspect)


def test_loss_and_disturbance_are_marked(written: Path) -> None:
    """A row that lost, and one that others disturbed, say so."""
    text = written.read_text()

    assert '<span class="bad">17</span>' in text
    assert "disturbed, 40%" in text


def test_contestants_keep_their_colours() -> None:
    """The same in every picture, controls apart."""
    palette = Palette(rows())

    assert len({palette["tcp"], palette["inproc"], palette["C relay, TCP"]}) == 3
    assert palette["C relay, TCP"].startswith("k")


def test_the_load_curve_shows_who_does_not_keep_up() -> None:
    """A point of less throughput than was offered is hollow, the rest is not."""
    drawn = page.pictures("latency", rows())["load-p50-256"]

    assert drawn.count('class="hollow"') == 3  # each contestant at 100,000/s
    assert drawn.count('class="dot"') == 6


def test_pictures_stand_alone() -> None:
    """For a file of its own a picture brings its style, and both schemes."""
    (drawn,) = page.pictures("fanout", rows(), alone=True).values()

    assert drawn.startswith("<svg")
    assert "prefers-color-scheme:dark" in drawn
    assert 'xmlns="http://www.w3.org/2000/svg"' in drawn
