"""Markup, made in one place: whatever is not :class:`Markup` already is text, and is escaped.

For HTML and SVG.  Knows nothing of benchmarks or drawings.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from hermes.base.shown import printable_lines


class Markup(str):
    """Text that is markup: made by :func:`element`, :func:`join` and :func:`trusted` alone.

    What string methods make of one is a plain ``str``, and is escaped where it is used.
    """

    __slots__ = ()


NOTHING = Markup()


def element(tag: str, *content: str, **attributes: object) -> Markup:
    """One element; ``_`` in a name stands for ``-``, ``class_`` for ``class``.  An attribute whose
    value is None or empty is left out."""
    parts = [
        f' {name.rstrip("_").replace("_", "-")}="{_escaped(number(value))}"'
        for name, value in attributes.items()
        if value is not None and value != ""
    ]
    return Markup(f"<{tag}{''.join(parts)}>{join(content)}</{tag}>")


def join(content: Iterable[str]) -> Markup:
    """Pieces behind one another, text escaped."""
    return Markup("".join(one if isinstance(one, Markup) else _escaped(one) for one in content))


def trusted(text: str) -> Markup:
    """Our own style sheets and the like; never what comes from outside."""
    return Markup(text)


def number(value: object) -> str:
    """A value as an attribute has it."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    return escape(printable_lines(text), quote=True)
