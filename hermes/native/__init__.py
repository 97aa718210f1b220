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
from hermes.native.log import Hole, Log, LogEvent, LogReport, LogStatus, Run
from hermes.native.patterns import check_pattern, check_topic, match, overlap

__all__ = [
    "Batch",
    "Decoder",
    "Encoder",
    "FrameIndex",
    "Header",
    "Hole",
    "Log",
    "LogEvent",
    "LogReport",
    "LogStatus",
    "MessageType",
    "Run",
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
