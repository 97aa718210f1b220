"""The native core: a thin Python handle per concept; alone imports the compiled module."""

from hermes.native.decoder import Decoder, FrameIndex, decode
from hermes.native.encoder import Encoder
from hermes.native.frames import (
    Batch,
    Header,
    MessageType,
    decode_batch,
    encode_batch,
    frame_size,
    stamp,
)
from hermes.native.patterns import check_pattern, check_topic, match, overlap

__all__ = [
    "Batch",
    "Decoder",
    "Encoder",
    "FrameIndex",
    "Header",
    "MessageType",
    "check_pattern",
    "check_topic",
    "decode",
    "decode_batch",
    "encode_batch",
    "frame_size",
    "match",
    "overlap",
    "stamp",
]
