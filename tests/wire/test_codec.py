"""Control frames, byte for byte and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.errors import MalformedInput
from hermes.native import MessageType
from hermes.wire import messages as m
from hermes.wire.codec import CLASSES, CONTROL_MAX, decode_control, encode_control
from tests.wire import reference as ref

HEADER_FILE = Path(__file__).parents[2] / "hermes" / "native" / "include" / "hm_frame.h"
UUID = bytes(range(16))

# One of each, as it stands on the wire: header, MessagePack map, padding.
GOLDEN: list[tuple[Any, str]] = [
    (
        m.Hello(1, 1, "hermes 0.1", "ann", {"password": "s"}),
        "48524d53011000000000000000000000000000000000000052000000ee589a7e"
        "85ab76657273696f6e5f6d696e01ab76657273696f6e5f6d617801a6636c69656e74aa6865726d657320302e31"
        "a86964656e74697479a3616e6eab63726564656e7469616c7381a870617373776f7264a173000000000000",
    ),
    (
        m.Welcome(1, "hermes 0.1", UUID, m.Limits(16777216, 17825792, 1024, 4096), True),
        "48524d530111000000000000000000000000000000000000900000001dfc2138"
        "85a776657273696f6e01a6736572766572aa6865726d657320302e31a962726f6b65725f6964c410"
        "000102030405060708090a0b0c0d0e0fa66c696d69747384ab6d6573736167655f6d6178ce01000000"
        "a962617463685f6d6178ce01100000ae7075626c6973686572735f6d6178cd0400"
        "b1737562736372697074696f6e735f6d6178cd1000a764757261626c65c3",
    ),
    (
        m.Open(1, UUID, "durable"),
        "48524d530112000000000000000000000000000000000000370000002e835e75"
        "83a97075626c697368657201ac7075626c69736865725f6964c410000102030405060708090a0b0c0d0e0f"
        "a361636ba764757261626c6500",
    ),
    (
        m.Subscribe(2, "md.>", start=m.Start(at="positions", positions={"md": 7})),
        "48524d5301130000000000000000000000000000000000003e000000d07ee3cc"
        "83ac737562736372697074696f6e02a666696c746572a46d642e3ea5737461727482a26174a9706f736974696f"
        "6e73a9706f736974696f6e7381a26d64070000",
    ),
    (
        m.Unsubscribe(2),
        "48524d5301140000000000000000000000000000000000000f000000cb104e40"
        "81ac737562736372697074696f6e0200",
    ),
    (
        m.Stream(0, "md"),
        "48524d53011500000000000000000000000000000000000010000000e69082fc"
        "82a5696e64657800a46e616d65a26d64",
    ),
    (
        m.Ack(1, 1000, "durable"),
        "48524d53011600000000000000000000000000000000000026000000ee5116cc"
        "83a97075626c697368657201a873657175656e6365cd03e8a56c6576656ca764757261626c650000",
    ),
    (
        m.Commit(2, {"md": 9}),
        "48524d5301170000000000000000000000000000000000001e0000003b6ab03a"
        "82ac737562736372697074696f6e02a9706f736974696f6e7381a26d64090000",
    ),
    (
        m.Gap(2, 0, 8, 12, "retention"),
        "48524d53011800000000000000000000000000000000000035000000aaa56ef9"
        "85ac737562736372697074696f6e02a673747265616d00a5666972737408a46c6173740c"
        "a6726561736f6ea9726574656e74696f6e000000",
    ),
    (
        m.Ping(5),
        "48524d530119000000000000000000000000000000000000080000009070463981a5746f6b656e05",
    ),
    (
        m.Pong(5),
        "48524d53011a00000000000000000000000000000000000008000000d86032a781a5746f6b656e05",
    ),
    (
        m.Query(3, "streams"),
        "48524d53011b00000000000000000000000000000000000015000000951ae2f6"
        "82a5717565727903a477686174a773747265616d73000000",
    ),
    (
        m.Info(3, msgspec.Raw(msgspec.msgpack.encode(["md"]))),
        "48524d53011c00000000000000000000000000000000000017000000816e86f7"
        "83a5717565727903a46461746191a26d64a46d6f7265c200",
    ),
    (
        m.Error("storage_full", "no room", False, publisher=1, sequence=4),
        "48524d53011d0000000000000000000000000000000000003f0000003e54fbaf"
        "85a4636f6465ac73746f726167655f66756c6ca76d657373616765a76e6f20726f6f6da5666174616cc2"
        "a97075626c697368657201a873657175656e63650400",
    ),
    (
        m.Close("bye"),
        "48524d53011e0000000000000000000000000000000000000c00000046471be7"
        "81a6726561736f6ea362796500000000",
    ),
]

ids = st.integers(0, m.ID_MAX)
sequences = st.integers(0, m.SEQUENCE_MAX)
names = st.text(min_size=1, max_size=20)
texts = st.text(max_size=20)
uuids = st.binary(min_size=16, max_size=16)
positions = st.dictionaries(names, sequences, max_size=4)
starts = st.builds(
    m.Start,
    at=st.sampled_from(["latest", "earliest", "last", "sequence", "time", "durable", "positions"]),
    sequence=sequences,
    time_ns=sequences,
    positions=positions,
    otherwise=st.sampled_from(["latest", "earliest"]),
)
maybe_ids = st.none() | ids
MESSAGES: dict[type, st.SearchStrategy[Any]] = {
    m.Hello: st.builds(
        m.Hello,
        st.integers(0, 255),
        st.integers(0, 255),
        texts,
        st.none() | names,
        st.dictionaries(texts, texts, max_size=3),
    ),
    m.Welcome: st.builds(
        m.Welcome,
        st.integers(0, 255),
        texts,
        uuids,
        st.builds(m.Limits, ids, ids, ids, ids),
        st.booleans(),
    ),
    m.Open: st.builds(m.Open, ids, uuids, st.sampled_from(["none", "appended", "durable"])),
    m.Subscribe: st.builds(
        m.Subscribe, ids, texts, st.sampled_from(["pattern", "prefix"]), starts, st.none() | names
    ),
    m.Unsubscribe: st.builds(m.Unsubscribe, ids),
    m.Stream: st.builds(m.Stream, ids, names),
    m.Ack: st.builds(m.Ack, ids, sequences, st.sampled_from(["opened", "appended", "durable"])),
    m.Commit: st.builds(m.Commit, ids, positions),
    m.Gap: st.builds(
        m.Gap, ids, ids, sequences, sequences, st.sampled_from(["retention", "damaged"])
    ),
    m.Ping: st.builds(m.Ping, sequences),
    m.Pong: st.builds(m.Pong, sequences),
    m.Query: st.builds(m.Query, ids, names, st.dictionaries(texts, texts, max_size=3)),
    m.Info: st.builds(
        m.Info,
        ids,
        st.builds(
            lambda value: msgspec.Raw(msgspec.msgpack.encode(value)),
            st.recursive(st.none() | texts | sequences, st.lists, max_leaves=8),
        ),
        st.booleans(),
    ),
    m.Error: st.builds(
        m.Error, names, texts, st.booleans(), maybe_ids, st.none() | sequences, maybe_ids, maybe_ids
    ),
    m.Close: st.builds(m.Close, texts, maybe_ids),
}


def split(frame: bytes) -> tuple[int, bytes]:
    """Type and payload of a control frame, checked and taken apart without the core."""
    size, kind = ref.check(frame, CONTROL_MAX)
    assert size == len(frame)
    payload_len = ref.HEADER.unpack_from(frame)[6]
    return kind, frame[32 : 32 + payload_len]


def payload(message: Any, **changes: Any) -> bytes:
    """The message's map with some entries changed, or left out where the change is None."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    fields.update(changes)
    return msgspec.msgpack.encode({k: v for k, v in fields.items() if v is not None})


@pytest.mark.parametrize(("message", "golden"), GOLDEN, ids=lambda v: type(v).__name__)
def test_golden_bytes(message: Any, golden: str) -> None:
    """A message is these bytes, and these bytes are that message, for ever."""
    frame = bytes.fromhex(golden)

    assert encode_control(message).hex() == golden
    kind, found = split(frame)
    assert frame == ref.frame(kind, found)
    assert encode_control(decode_control(kind, found)) == frame


def test_each_message_has_golden_bytes() -> None:
    """No message class is without a golden frame."""
    assert {type(message) for message, _ in GOLDEN} == set(CLASSES.values())


def test_each_control_type_has_one_class() -> None:
    """The table covers exactly the control types of hm_frame.h, under the same numbers."""
    listed = re.findall(r"HM_([A-Z]+) = (\d+),", HEADER_FILE.read_text())
    control = {int(number): name for name, number in listed if int(number) >= 16}

    assert {int(kind): kind.name for kind in CLASSES} == control
    assert {kind.name for kind in CLASSES} == {c.__name__.upper() for c in CLASSES.values()}


@given(st.one_of(*MESSAGES.values()))
def test_what_is_encoded_decodes_to_the_same(message: Any) -> None:
    """Any message with legal fields comes back equal."""
    kind, found = split(encode_control(message))

    back = decode_control(kind, found)

    assert type(back) is type(message)
    if isinstance(message, m.Info):
        assert isinstance(back, m.Info)
        assert (back.query, back.more, bytes(back.data)) == (
            message.query,
            message.more,
            bytes(message.data),
        )
    else:
        assert back == message


@given(st.sampled_from(list(CLASSES)), st.binary(max_size=200))
def test_random_payloads_are_messages_or_malformed(kind: MessageType, data: bytes) -> None:
    """With any bytes as a payload, the answer is a message or MalformedInput."""
    try:
        message = decode_control(kind, data)
    except MalformedInput as error:
        answer: object = error.code
    else:
        answer = type(message)

    assert answer in ("bad_payload", CLASSES[kind])


def test_unknown_fields_are_ignored() -> None:
    """A field of a later version harms nobody."""
    data = payload(m.Ping(7), colour="green", nested={"a": [1, 2]})

    assert decode_control(MessageType.PING, data) == m.Ping(7)


def test_the_payload_may_be_reused_after_decoding() -> None:
    """A decoded message refers to none of the bytes it came from."""
    data = bytearray(payload(m.Open(1, UUID)))

    message = decode_control(MessageType.OPEN, memoryview(data))
    data[:] = bytes(len(data))

    assert message == m.Open(1, UUID)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (MessageType.PING, b""),
        (MessageType.PING, b"\xc1"),
        (MessageType.PING, b"\x93\x01\x02\x03"),
        (MessageType.PING, payload(m.Ping(1), token=None)),
        (MessageType.PING, payload(m.Ping(1), token="one")),
        (MessageType.PING, payload(m.Ping(1), token=-1)),
        (MessageType.PING, payload(m.Ping(1), token=2**63)),
        (MessageType.PING, payload(m.Ping(1)) + b"\x00"),
        (MessageType.PING, payload(m.Ping(1))[:-1]),
        (MessageType.PING, b"\x81\xa5token" + b"\x91" * 100_000),
        (MessageType.PING, b"\x82\xa1x" + b"\x91" * 100_000),
        (MessageType.STREAM, b"\x82\xa5index\x00\xa4name\xa2\xff\xfe"),
        (MessageType.STREAM, payload(m.Stream(0, "a"), name="")),
        (MessageType.STREAM, payload(m.Stream(0, "a"), name="x" * (m.NAME_MAX + 1))),
        (MessageType.STREAM, payload(m.Stream(0, "a"), index=2**32)),
        (MessageType.OPEN, payload(m.Open(1, UUID), publisher_id=UUID[:15])),
        (MessageType.OPEN, payload(m.Open(1, UUID), publisher_id=UUID + b"x")),
        (MessageType.OPEN, payload(m.Open(1, UUID), ack="perhaps")),
        (MessageType.ACK, payload(m.Ack(1, 1), sequence=2**63)),
        (MessageType.SUBSCRIBE, payload(m.Subscribe(1, ">"), start={"at": "noon"})),
        (MessageType.SUBSCRIBE, payload(m.Subscribe(1, "x" * (m.PATTERN_MAX + 1)))),
        (MessageType.COMMIT, payload(m.Commit(1, {}), positions={"md": -1})),
        (MessageType.CLOSE, payload(m.Close("x" * (m.TEXT_MAX + 1)))),
        (MessageType.HELLO, payload(m.Hello(1, 1), version_max=256)),
    ],
)
def test_bad_payloads_are_refused(kind: MessageType, data: bytes) -> None:
    """A payload that is not the map its type asks for is MalformedInput with code bad_payload."""
    with pytest.raises(MalformedInput) as caught:
        decode_control(kind, data)

    assert caught.value.code == "bad_payload"


@pytest.mark.parametrize("kind", [0, 1, 2, 15, 31, 255])
def test_other_types_are_refused(kind: int) -> None:
    """A type without a message is MalformedInput with code bad_type."""
    with pytest.raises(MalformedInput) as caught:
        decode_control(kind, b"\x80")

    assert caught.value.code == "bad_type"


def test_the_largest_payload_fits_and_one_more_byte_does_not() -> None:
    """The limit of a control frame is exact, and more is a ValueError at the sender."""
    overhead = len(msgspec.msgpack.encode(m.Info(1, msgspec.Raw(b"\xc0")))) - 1
    largest = msgspec.msgpack.encode(b"x" * (CONTROL_MAX - overhead - 5))

    frame = encode_control(m.Info(1, msgspec.Raw(largest)))
    assert len(frame) == 32 + CONTROL_MAX
    with pytest.raises(ValueError, match="holds 1048576 bytes"):
        encode_control(m.Info(1, msgspec.Raw(largest + b"x")))
