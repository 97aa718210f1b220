"""Finds the libzmq that pyzmq has loaded, for native code to call the same one."""

from __future__ import annotations

import functools
import sys
from typing import Any

import zmq

from hermes_zmq._native import ffi, lib


@functools.cache
def library() -> Any | None:
    """The loaded libzmq as native code knows it; None: it cannot be found, or is another version
    than Python's."""
    for path in _candidates():
        found = lib.hz_library_open(path.encode())
        if found == ffi.NULL:
            continue
        major, minor, patch = zmq.zmq_version_info()
        if lib.hz_library_version(found) == major * 10000 + minor * 100 + patch:
            return found
        lib.hz_library_close(found)
    return None


def _candidates() -> list[str]:
    """The extension modules of pyzmq: a handle of one also leads to what it was linked with."""
    names = ("zmq.backend.cython._zmq", "zmq.backend.cffi._cffi")
    modules = (sys.modules.get(name) for name in names)
    files = (getattr(module, "__file__", None) for module in modules)
    return [file for file in files if file]
