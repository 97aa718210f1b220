"""Exceptions that failing calls of the core become in Python.  Knows the codes, not who called."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn

from hermes import errors
from hermes.base import rlimits
from hermes.native._core import ffi, lib

MALFORMED: dict[int, str] = {
    lib.HM_ETRUNC: "truncated",
    lib.HM_EMAGIC: "bad_magic",
    lib.HM_EVERSION: "unsupported_version",
    lib.HM_ETYPE: "bad_type",
    lib.HM_EFLAGS: "bad_flags",
    lib.HM_ELENGTH: "bad_length",
    lib.HM_EPADDING: "bad_padding",
    lib.HM_ECRC: "bad_checksum",
    lib.HM_ESEQUENCE: "bad_sequence",
    lib.HM_EUNKNOWN: "unknown_id",
}
"""Codes for bytes that are not sound to the ``code`` of :exc:`~hermes.errors.MalformedInput`."""

_REFUSED: dict[int, str] = {
    lib.HM_EGONE: "gone",
    lib.HM_ELIMIT: "limit",
    lib.HM_EBUSY: "busy",
    lib.HM_EDENIED: "not_allowed",
}

_KINDS: dict[int, type[Exception]] = {
    lib.HM_EFULL: errors.WouldBlock,
    lib.HM_ECOLD: errors.WouldBlock,
    lib.HM_EEMPTY: errors.WouldBlock,
    lib.HM_EINVAL: errors.UsageError,
    lib.HM_ENOMEM: MemoryError,
    lib.HM_ETOPIC: errors.InvalidTopic,
    lib.HM_EDAMAGED: errors.StorageDamaged,
    lib.HM_ENOSPACE: errors.StorageFull,
    lib.HM_EFILES: errors.StorageFull,
    lib.HM_EMAPS: errors.StorageFull,
    lib.HM_EFSIZE: errors.StorageFull,
    lib.HM_EIO: errors.StorageFailed,
    lib.HM_ESYS: errors.SystemFault,
    lib.HM_ECLOSED: errors.Closed,
    lib.HM_ETIMEDOUT: errors.Timeout,
}

_LIMITS: dict[int, Callable[[], str]] = {
    lib.HM_EFILES: partial(rlimits.rlimit, "RLIMIT_NOFILE"),
    lib.HM_EFSIZE: partial(rlimits.rlimit, "RLIMIT_FSIZE"),
    lib.HM_EMAPS: lambda: f"{rlimits.rlimit('RLIMIT_AS')}, {rlimits.maps_max()}",
    lib.HM_ENOMEM: rlimits.memory_limits,
}


def text(code: int) -> str:
    """A sentence for a code, positive or negative; where it is a limit of this process, with its
    present value."""
    said = str(ffi.string(lib.hm_error_text(code)), "ascii")
    limits = _LIMITS.get(abs(code))
    return said if limits is None else f"{said} ({limits()})"


def fail(code: int, context: str, *, offset: int | None = None) -> NoReturn:
    """Raise what the code (positive or negative) means; ``context`` says what was tried, on what.

    ``offset``: where in the input it stands, bytes; only malformed input has one.
    """
    code = abs(code)
    message = f"{context}: {text(code)}"
    if code in MALFORMED:
        where = "" if offset is None else f" (at byte {offset})"
        raise errors.MalformedInput(message + where, code=MALFORMED[code], offset=offset)
    if code in _REFUSED:
        raise errors.Refused(message, code=_REFUSED[code])
    raise _KINDS.get(code, errors.HermesError)(message)


def check(code: int, context: str) -> int:
    """Return ``code`` if it is 0 or a count, else raise what it means."""
    if code < 0:
        fail(code, context)
    return code
