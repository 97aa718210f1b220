"""What ``streams``, ``topics`` and ``stats`` share: a question to the broker, and tables of its
answer."""

from __future__ import annotations

from typing import Any

from hermes.cli.exits import MEANINGS, ExitCode

EXITS = {
    code: MEANINGS[code] for code in (ExitCode.TIMED_OUT, ExitCode.UNREACHABLE, ExitCode.REFUSED)
}


def cell(name: str, value: Any) -> str:
    """A value for people: the unit is in the name's ending."""
    from hermes.cli.figures import format_bytes, format_duration

    if value is None:
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


def show_rows(rows: list[dict[str, Any]], columns: list[str], nothing: str) -> None:
    """A table with these columns, or the sentence ``nothing`` if there are no rows."""
    import click

    from hermes.cli.output import print_table

    if not rows:
        click.echo(nothing)
        return
    numeric = {
        name for name in columns if all(isinstance(row.get(name), int | float) for row in rows)
    }
    heads = [f"{'>' if name in numeric else ''}{name.replace('_', ' ')}" for name in columns]
    print_table(heads, [[cell(name, row.get(name)) for name in columns] for row in rows])


def flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested counters as rows of (dotted name, value)."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, item in enumerate(value):
                label = item.get("name") or item.get("url") or index
                rows += flatten(item, f"{prefix}{name}[{label}].")
        else:
            rows.append((f"{prefix}{name}", cell(name, value)))
    return rows
