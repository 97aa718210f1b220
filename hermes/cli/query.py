"""Parts that ``streams``, ``topics`` and ``stats`` share: a question to the broker, and tables of its
answer.
"""

from __future__ import annotations

from typing import Any

from hermes.cli.exits import MEANINGS, ExitCode
from hermes.cli.output import say

EXITS = {
    code: MEANINGS[code] for code in (ExitCode.TIMED_OUT, ExitCode.UNREACHABLE, ExitCode.REFUSED)
}


def cell(name: str, value: Any) -> str:
    """A value for people: the unit is in the name's ending."""
    from hermes.cli.figures import format_bytes, format_duration

    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if not isinstance(value, int | float) or name == "pid":
        return str(value)
    if name.endswith("_ns"):
        return format_duration(value) if value else "-"
    if name.endswith(("_bytes", "bytes")):
        return format_bytes(value)
    return f"{value:,}"


def show_rows(rows: list[dict[str, Any]], columns: dict[str, str], nothing: str) -> None:
    """A table with ``columns`` (head to field), or the sentence ``nothing`` if there are no
    rows.
    """

    from hermes.cli.output import print_table

    if not rows:
        say(nothing)
        return
    heads = [
        f"{'>' if isinstance(rows[0].get(name), int | float) else ''}{head}"
        for head, name in columns.items()
    ]
    print_table(heads, [[cell(name, row.get(name)) for name in columns.values()] for row in rows])


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested counters as dotted name to value."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = cell(name, value)
    return found
