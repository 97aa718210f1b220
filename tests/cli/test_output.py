"""Tables for people: aligned with the extra that folds them, and without."""

from __future__ import annotations

import sys

import pytest

from hermes.cli.output import print_table

COLUMNS = ["name", ">messages", "what"]
ROWS = [["md.a", "12", "prices"], ["orders.new", "3", ""], ["esc\x1b[1m", "1234567", "é"]]


@pytest.mark.parametrize("extra", [True, False])
def test_tables_are_aligned(
    extra: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns stand below their heads, numbers end where theirs do, and no character of a cell is one
    of control, whether rich is installed or not."""
    if not extra:
        for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "rich", None)

    print_table(COLUMNS, ROWS)

    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len(lines) == 2 + len(ROWS)
    head, _, *rows = lines
    name, messages, what = (head.index(word) for word in ("name", "messages", "what"))
    for row, (first, number, last) in zip(rows, ROWS, strict=True):
        assert row[name:].startswith(first.partition("\x1b")[0])
        assert row[: messages + len("messages")].endswith(number)
        assert row[what:] == last
    assert "\x1b" not in "".join(lines)


def test_an_empty_table_has_its_heads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without rows there is still something to read."""
    monkeypatch.setitem(sys.modules, "rich", None)

    print_table(COLUMNS, [])

    assert capsys.readouterr().out.split()[:3] == ["name", "messages", "what"]
