"""Description of a plugin's option struct: names, values, defaults and docstrings.

The docstring of an option is the string that stands below it in the class; Python forgets it, so it
is read from the source.  Makes no plugin, and looks at nothing but the struct.
"""

from __future__ import annotations

import ast
import enum
import inspect
import textwrap
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from hermes.spi.units import ByteSize, Duration

VALUES = {
    bool: "yes or no",
    int: "integer",
    float: "number",
    str: "text",
    ByteSize: "size",
    Duration: "duration",
}
"""Kind of value after the ``=`` in a URL, by the field's type."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option, as users are told of it."""

    name: str
    """As the URL has it."""
    values: str
    """Values allowed after the ``=``, e.g. ``integer, at least 1``."""
    default: str | None
    """As one would write it; None: it has none, and must be given."""
    text: str
    """Its docstring on one line; empty if there is none."""


def describe_options(kind: type[msgspec.Struct]) -> list[Option]:
    """The options of ``kind`` in the order of its fields, those of its bases included."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            texts.update(field_docstrings(base))
    return [
        Option(
            name=field.encode_name,
            values=_values(field.type),
            default=_default(field),
            text=texts.get(field.name, ""),
        )
        for field in msgspec.structs.fields(kind)
    ]


def field_docstrings(kind: type) -> dict[str, str]:
    """Field to the docstring below it on one line, of a class's own fields that have one."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):  # there is no source: made at run time, or shipped without
        return {}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    found[field.target.id] = " ".join(text.split())
    return found


def _values(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _values(arguments[0]) + _bounds(arguments[1:])
    if origin in (Union, types.UnionType):
        return " or ".join(_values(each) for each in arguments if each is not types.NoneType)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return " or ".join(f"`{member.value}`" for member in kind)
    return VALUES.get(kind) or str(getattr(kind, "__name__", kind)).lower()


def _bounds(notes: tuple[Any, ...]) -> str:
    for note in notes:
        if isinstance(note, msgspec.Meta):
            match note.ge, note.le:
                case None, None:
                    pass
                case low, None:
                    return f", at least {low}"
                case None, high:
                    return f", at most {high}"
                case low, high:
                    return f", {low} to {high}"
    return ""


def _default(field: msgspec.structs.FieldInfo) -> str | None:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, enum.Enum):
        value = value.value
    return "none" if value is None else str(value)
