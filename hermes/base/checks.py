"""Checks of arguments that a program passes: what is taken, and an error that names the argument.

One rule for each kind of value, used by every public call, so that all calls agree:

- a **time** is seconds as any real number: a negative one is now (0), None and infinity are for
  ever, and so is everything over a hundred years; NaN is refused;
- an **integer** is anything with ``__index__``, NumPy's included; a float is none;
- a **bool** is no number, and a number no bool: one that stands where the other is meant is a slip;
- **text** is ``str`` that has a UTF-8 form; bytes are not decoded;
- **bytes** are any contiguous buffer of plain data: no text, no pointers, no Python objects.

Everything raises :exc:`~hermes.errors.UsageError`, or its subclass :exc:`~hermes.errors.WrongType`
(a ``TypeError`` too) where the type is wrong.  Knows no client and no broker.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from hermes.base.shown import redacted
from hermes.errors import UsageError, WrongType

NS_PER_S = 1_000_000_000
FOR_EVER_NS = 100 * 365 * 86400 * NS_PER_S
"""A hundred years, nanoseconds: no time is longer, so that sums with a clock fit 64 bits."""
U64_MAX = 2**64 - 1
INT64_MAX = 2**63 - 1
LOOKED_AT = 65536
"""Characters of a wrong value in which a password is looked for."""
SHOWN_MAX = 80
"""Characters of a wrong value that an error shows."""
POINTERS = re.compile(r"[OPXz&]|Z(?![fdgFDG])")
"""Parts of a buffer's format that stand for addresses: objects, pointers, functions (but a ``Z`` before
a floating type is a complex number)."""
FIELD_NAME = re.compile(r":[^:]*:")
"""The name of a field within a buffer's format."""

Choice = TypeVar("Choice", bound=str)


def shown(value: object) -> str:
    """A short form of ``value`` for an error; its type alone where its repr fails."""
    try:
        if isinstance(value, str):
            text = repr(redacted(value[:LOOKED_AT])[: SHOWN_MAX + 1])
        elif isinstance(value, bytes | bytearray):
            text = repr(bytes(value[:LOOKED_AT]))
        else:
            text = repr(value)
    except Exception:  # a stranger's __repr__ may fail in any way
        return f"a {type(value).__name__}"
    text = redacted(text)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}... ({type(value).__name__})"


def wrong_type(name: str, takes: str, value: object) -> NoReturn:
    """Raise the error for the argument ``name``, which ``takes`` something else.

    Raises:
        WrongType: always.
    """
    raise WrongType(f"{name} takes {takes}, not {shown(value)}")


# ---- numbers ----


def is_bool(value: object) -> bool:
    """Whether ``value`` is a bool, Python's or NumPy's."""
    if isinstance(value, bool):
        return True
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return kind == "b" and getattr(value, "shape", None) == ()


def flag(value: object, name: str) -> bool:
    """A bool.

    Raises:
        WrongType: it is none.
    """
    if not is_bool(value):
        wrong_type(name, "a bool", value)
    return bool(value)


def integer(value: Any, name: str, *, least: int = 0, most: int = INT64_MAX) -> int:
    """An integer from ``least`` to ``most``.

    Raises:
        WrongType: it is none.
        UsageError: it is out of range.
    """
    if is_bool(value):
        wrong_type(name, "an integer", value)
    try:
        number = operator.index(value)
    except TypeError:
        wrong_type(name, "an integer", value)
    if not least <= number <= most:
        raise UsageError(f"{name} is an integer from {least} to {most}, not {_digits(number)}")
    return number


def unsigned(value: Any, name: str) -> int:
    """An integer of 64 bits without a sign.  Native code calls this, by its name.

    Raises:
        UsageError: it is none.
    """
    return integer(value, name, most=U64_MAX)


def _digits(number: int) -> str:
    """A number as an error shows it: Python refuses to write more than some thousand digits."""
    return str(number) if abs(number) < 10**40 else f"one of {number.bit_length()} bits"


def real(value: Any, name: str, takes: str = "a number") -> float:
    """A real number; infinity is one, and so is what a float is too small for.

    Raises:
        WrongType: it is none.
        UsageError: it is NaN.
    """
    if value.__class__ is not float:
        if is_bool(value) or isinstance(value, str | bytes | bytearray | memoryview):
            wrong_type(name, takes, value)
        try:
            value = float(value)
        except OverflowError:
            value = float("inf") if value > 0 else float("-inf")
        except Exception:  # any __float__ may fail in any way
            hint = (
                " (timedelta.total_seconds() gives them)" if hasattr(value, "total_seconds") else ""
            )
            wrong_type(name, takes + hint, value)
    if value != value:
        raise UsageError(f"{name} takes {takes}, not NaN")
    number: float = value
    return number


# ---- times ----

_PLAIN = (float, int)


def nanoseconds(seconds: Any, name: str) -> int:
    """A time in nanoseconds, from 0 to FOR_EVER_NS; None is for ever, a negative one is 0.

    Raises:
        WrongType: it is no number.
        UsageError: it is NaN.
    """
    if seconds is None:
        return FOR_EVER_NS
    if seconds.__class__ in _PLAIN and 0 < seconds < FOR_EVER_NS // NS_PER_S:
        return int(seconds * NS_PER_S)  # what nearly every call passes
    number = real(seconds, name, "seconds, or None for ever")
    if number <= 0:
        return 0
    return FOR_EVER_NS if number >= FOR_EVER_NS / NS_PER_S else int(number * NS_PER_S)


def duration(seconds: Any, name: str) -> float | None:
    """A time in seconds; None if it is for ever.

    Raises:
        WrongType: it is no number.
        UsageError: it is NaN.
    """
    ns = nanoseconds(seconds, name)
    if ns >= FOR_EVER_NS:
        return None
    return max(0.0, float(seconds)) if ns else 0.0


# ---- text ----


def text(value: Any, name: str, *, least: int = 0, most: int | None = None) -> str:
    """Text of ``least`` to ``most`` characters.

    Raises:
        WrongType: it is no ``str``.
        UsageError: it is too short or too long, or has no UTF-8 form.
    """
    if not isinstance(value, str):
        hint = "; .decode() it" if isinstance(value, bytes | bytearray) else ""
        raise WrongType(f"{name} takes a str, not {shown(value)}{hint}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} has no UTF-8 form: {shown(value)}") from None
    if len(value) < least or (most is not None and len(value) > most):
        bounds = f"{least} or more" if most is None else f"{least} to {most}"
        raise UsageError(f"{name} has {bounds} characters, not {len(value)}")
    return str(value)


def choice(value: Any, name: str, words: Iterable[Choice]) -> Choice:
    """One of ``words``.

    Raises:
        WrongType: it is no ``str``.
        UsageError: it is none of them.
    """
    known = tuple(words)
    for word in known:
        if isinstance(value, str) and value == word:
            return word
    takes = " or ".join(filter(None, [", ".join(map(repr, known[:-1])), repr(known[-1])]))
    if not isinstance(value, str):
        wrong_type(name, takes, value)
    raise UsageError(f"{name} is {takes}, not {shown(value)}")


def texts(value: Any, name: str) -> dict[str, str]:
    """A mapping of text to text.

    Raises:
        WrongType: it is none.
        UsageError: a text has no UTF-8 form.
    """
    if not isinstance(value, Mapping):
        raise WrongType(f"{name} takes a dict of str to str, not a {type(value).__name__}")
    found = {}
    for key, item in value.items():
        key = text(key, f"a name in {name}")
        if not isinstance(item, str):  # its value may be a secret
            raise WrongType(f"{name}[{key!r}] takes a str, not a {type(item).__name__}")
        if not item.isascii():
            try:
                item.encode()
            except UnicodeEncodeError:
                raise UsageError(f"{name}[{key!r}] has no UTF-8 form") from None
        found[key] = str(item)
    return found


# ---- buffers ----


def holds_addresses(view: memoryview) -> bool:
    """Whether what ``view`` shows are addresses of this process: Python objects or pointers."""
    if getattr(getattr(view.obj, "dtype", None), "hasobject", False):
        return True
    return POINTERS.search(FIELD_NAME.sub("", view.format)) is not None


def plain_view(value: Any, name: str) -> memoryview:
    """A view of a buffer of plain data, of any shape and strides.

    Raises:
        WrongType: it is no buffer, or one of addresses.
    """
    if isinstance(value, str):
        raise WrongType(f"{name} takes bytes or another buffer, not {shown(value)}; .encode() it")
    try:
        view = memoryview(value)
    except (TypeError, ValueError, BufferError) as error:
        array = hasattr(value, "dtype") and hasattr(value, "tobytes")
        hint = (
            f" ({error}): send what its tobytes() returns, or another view of it" if array else ""
        )
        raise WrongType(
            f"{name} takes bytes or another buffer, not {shown(value)}{hint}"
        ) from error
    if holds_addresses(view):
        raise WrongType(
            f"{name} holds addresses of Python objects or of memory (format {view.format!r}), which "
            "mean nothing elsewhere: serialise it first"
        )
    return view


def buffer(value: Any, name: str) -> Any:
    """``value`` where it can be sent as it is; a copy of a buffer that is not contiguous.

    Raises:
        WrongType: it is no buffer, or one of addresses.
    """
    if isinstance(value, bytes | bytearray):
        return value
    with plain_view(value, name) as view:
        return value if view.c_contiguous else view.tobytes()


def copied(value: Any, name: str) -> bytes:
    """The bytes of a buffer of plain data.

    Raises:
        WrongType: it is no buffer, or one of addresses.
    """
    with plain_view(value, name) as view:
        return value if type(value) is bytes else view.tobytes()
