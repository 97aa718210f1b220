"""How ``hermes sub`` and ``hermes log dump`` write one message on one line."""

from __future__ import annotations

import base64

from hermes.base.shown import printable


def raw_line(topic: str, stream: str, sequence: int, timestamp_ns: int, payload: bytes) -> bytes:
    """The payload alone."""
    return payload + b"\n"


def text_line(topic: str, stream: str, sequence: int, timestamp_ns: int, payload: bytes) -> bytes:
    """Topic, sequence, payload; what a terminal would obey, or cannot show, is escaped."""
    shown = printable(payload.decode("utf-8", "backslashreplace"), tabs=True)
    return f"{printable(topic)} {sequence} {shown}\n".encode()


def json_line(topic: str, stream: str, sequence: int, timestamp_ns: int, payload: bytes) -> bytes:
    """One JSON object; a payload that is not UTF-8 stands in it as base64."""
    import msgspec

    fields: dict[str, object] = {
        "topic": topic,
        "stream": stream,
        "sequence": sequence,
        "timestamp_ns": timestamp_ns,
    }
    try:
        fields["payload"] = payload.decode()
    except UnicodeDecodeError:
        fields["payload_base64"] = base64.b64encode(payload).decode()
    return msgspec.json.encode(fields) + b"\n"


LINES = {"raw": raw_line, "text": text_line, "json": json_line}
"""By the value of ``--format``."""
