"""How ``hermes sub`` and ``hermes log dump`` write one message on one line."""

from __future__ import annotations

import base64

CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
ESCAPES = {code: f"\\x{code:02x}" for code in CONTROLS if code != 0x09} | {
    0x0A: "\\n",
    0x0D: "\\r",
}
"""Control characters but the tab: a payload must not move the cursor, nor look like two
messages."""


def raw_line(topic: str, stream: str, sequence: int, timestamp_ns: int, payload: bytes) -> bytes:
    """The payload alone."""
    return payload + b"\n"


def text_line(topic: str, stream: str, sequence: int, timestamp_ns: int, payload: bytes) -> bytes:
    """Topic, sequence, payload; what a terminal would obey, or cannot show, is escaped."""
    shown = payload.decode("utf-8", "backslashreplace").translate(ESCAPES)
    return f"{topic.translate(ESCAPES)} {sequence} {shown}\n".encode()


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
