"""The core's table of functions, for other compiled modules; and the one that ships beside it.

``_fast`` holds what exists per message as a Python object.  It is reached through here, because it
must know the table before it is used.
"""

from __future__ import annotations

from pathlib import Path

from hermes.native import _fast
from hermes.native._core import ffi, lib

API_VERSION: int = lib.HM_API_VERSION
"""How many times functions were appended to the table; see ``hm_api.h``."""


def api_address() -> int:
    """Address of the core's ``struct hm_api``, which stays there as long as the process lives."""
    return int(ffi.cast("uintptr_t", lib.hm_api_get()))


def get_include() -> str:
    """The directory of the core's headers, for a plugin that is built with C of its own."""
    return str(Path(__file__).parent / "include")


_fast.bind(api_address())

Message = _fast.Message
envelope = _fast.envelope
acknowledge = _fast.acknowledge
Reader = _fast.Reader
Sender = _fast.Sender
Source = _fast.Source
Incoming = _fast.Incoming
Lock = _fast.Lock
Hold = _fast.Hold
together = _fast.together
REFUSED = _fast.REFUSED
