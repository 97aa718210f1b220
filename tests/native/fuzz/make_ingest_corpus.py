"""Writes the seeds of ``fuzz_ingest.c`` into ``corpus/ingest``: run it when the format changes.

A seed is one byte of switches (see the target) and what a connection sends.
"""

from __future__ import annotations

from pathlib import Path

from hermes.native import Encoder, MessageType, encode_batch

PLACE = Path(__file__).parent / "corpus" / "ingest"
REPAIR, PIECES = 1, 62


def control(kind: MessageType, payload: bytes = b"\x80") -> bytes:
    encoder = Encoder()
    encoder.encode(payload, type=kind)
    return bytes(encoder.view)


def batch(first: int, *topics: str, publisher: int = 1, size: int = 5) -> bytes:
    encoder = Encoder()
    for i, topic in enumerate(topics):
        encoder.encode(bytes(size), topic=topic, sequence=first + i)
    through = first - 1 + len(topics)
    size = len(encoder)
    head = encode_batch(id=publisher, after=first - 1, through=through, frames_size=size)
    return head + bytes(encoder.view)


def seeds() -> dict[str, bytes]:
    """File name to content."""
    singles = b"".join(batch(i, "a") for i in range(1, 8))
    sound = {
        "batch": batch(1, "a", "a", "b.x"),
        "one-message-batches": singles,
        "two-publishers": batch(1, "a", "b.x") + batch(1, "b.y", "a", publisher=2) + batch(3, "a"),
        "twice": batch(1, "a", "b.x") + batch(1, "a", "b.x", "c"),
        "with-controls": control(MessageType.PING) + batch(1, "a") + control(MessageType.COMMIT),
        "many-topics": batch(1, *[f"t.{i}" for i in range(80)], size=0),
        "empty-batch": encode_batch(id=1, after=3, through=3, frames_size=0) + batch(4, "a"),
        "large": batch(1, "a", "b.long", size=2048),
        "unknown": batch(1, "a", publisher=3),
    }
    return {
        **{name: bytes([REPAIR | PIECES]) + data for name, data in sound.items()},
        "as-it-is": bytes([254]) + singles,
        "byte-by-byte": bytes([REPAIR]) + sound["two-publishers"],
        "garbage": bytes([0]) + b"GET / HTTP/1.1\r\n\r\n",
    }


if __name__ == "__main__":
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (PLACE / name).write_bytes(data)
