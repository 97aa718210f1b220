"""The content of a message's property block: a key, then headers; see ``hm_properties.h``.

For tools and plugins; nothing here runs per message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from hermes.errors import MalformedInput, UsageError
from hermes.native.frames import PROPERTIES_MAX

_KEY = struct.Struct("<H")
_HEADER = struct.Struct("<BH")
NAME_MAX = 255
"""Bytes of a header's name."""

Header = tuple[str, bytes]


def encode_properties(headers: Iterable[Header] = (), *, key: bytes = b"") -> bytes:
    """The content of a property block.

    Raises:
        UsageError: it would be over the limit, or a name is empty or over 255 bytes.
    """
    found = bytearray()
    try:
        found += _KEY.pack(len(key)) + key
        for name, value in headers:
            encoded = name.encode()
            if not encoded:
                raise UsageError("a header has a name")
            found += _HEADER.pack(len(encoded), len(value)) + encoded + value
    except struct.error as error:
        raise UsageError(f"a key, name or value is too long: {error}") from error
    if len(found) > PROPERTIES_MAX:
        raise UsageError(f"properties of {len(found)} bytes are over the limit of {PROPERTIES_MAX}")
    return bytes(found)


def decode_properties(data: bytes) -> tuple[bytes, list[Header]]:
    """The key and the headers in the content of a property block.

    Raises:
        MalformedInput: it ends before it should, or a name is empty or not UTF-8.
    """
    try:
        (size,) = _KEY.unpack_from(data)
        key, at = data[2 : 2 + size], 2 + size
        if len(key) != size:
            raise _malformed(0)
        headers = []
        while at < len(data):
            name_len, value_len = _HEADER.unpack_from(data, at)
            begin = at + _HEADER.size
            at = begin + name_len + value_len
            if at > len(data) or not name_len:
                raise _malformed(begin)
            value = data[begin + name_len : at]
            headers.append((data[begin : begin + name_len].decode(), value))
    except (struct.error, UnicodeDecodeError) as error:
        raise _malformed(0) from error
    return key, headers


def _malformed(offset: int) -> MalformedInput:
    return MalformedInput(
        f"no sound property block (at byte {offset})", code="bad_length", offset=offset
    )
