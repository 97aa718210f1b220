"""Writes the seeds of ``fuzz_frame.c`` into ``corpus/frame``: run it when the format changes.

A seed is one byte of switches (see the target) and the bytes to decode.
"""

from __future__ import annotations

from pathlib import Path

from hermes.native import Encoder, MessageType, encode_batch

PLACE = Path(__file__).parent / "corpus" / "frame"
REPAIR, SMALL, TEXT = 1, 2, 4
TIME_NS = 1_700_000_000_000_000_000


def message(payload: bytes, topic: str = "md.xnas.AAPL", properties: bytes = b"") -> bytes:
    encoder = Encoder()
    encoder.encode(payload, topic=topic, properties=properties, sequence=7, timestamp_ns=TIME_NS)
    return bytes(encoder.view)


def control(kind: MessageType, payload: bytes) -> bytes:
    encoder = Encoder()
    encoder.encode(payload, type=kind)
    return bytes(encoder.view)


def many(count: int) -> bytes:
    encoder = Encoder()
    encoder.encode_many("md.a", [bytes(n) for n in range(count)], first_sequence=1)
    return bytes(encoder.view)


def seeds() -> dict[str, bytes]:
    """File name to content."""
    frames = many(9)
    envelope = encode_batch(id=3, stream=2, after=0, through=9, frames_size=len(frames))
    sound = {
        "message": message(b"hello"),
        "message-empty": message(b""),
        "message-aligned": message(bytes(range(64)), "eight.by"),
        "message-long": message(bytes(300), "t" * 255),
        "message-properties": message(b"payload", "a", b"key=value"),
        "messages": frames,
        "batch": envelope + frames,
        "batch-empty": encode_batch(id=1, after=5, through=5, frames_size=0),
        "control": control(MessageType.HELLO, b"\x82\xa1a\x01\xa1b\x02"),
        "control-empty": control(MessageType.PING, b""),
        "cut": frames[:-5],
        "mixed": message(b"x") + control(MessageType.PONG, b"\x80") + message(b"y"),
        "garbage": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    }
    texts = {
        "text-literal": b"md.xnas.AAPL" * 2,
        "text-star": b"md.*.AAPLmd.x.AAPL",
        "text-rest": b"md.>md.x",
        "text-unicode": ("é.日本" * 2).encode(),
        "text-stars": b"*.*.*a.b.c",
    }
    return {
        **{name: bytes([REPAIR]) + data for name, data in sound.items()},
        "as-it-is": bytes([0]) + sound["message-properties"],
        "over-limit": bytes([REPAIR | SMALL]) + sound["message-aligned"],
        **{name: bytes([TEXT]) + data for name, data in texts.items()},
    }


if __name__ == "__main__":
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (PLACE / name).write_bytes(data)
