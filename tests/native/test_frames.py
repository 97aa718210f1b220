"""Frames: golden bytes, round trips, refusals."""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import pytest
from hermes.native._core import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

from hermes.errors import InvalidTopic, MalformedInput, MessageTooLarge, UsageError
from hermes.native import (
    Decoder,
    Encoder,
    MessageType,
    decode,
    decode_batch,
    encode_batch,
    frame_size,
    stamp,
)

if TYPE_CHECKING:
    from tests.native.conftest import RunC

topics = st.sampled_from(["a", "md.x", "seven.b", "eight.by", "t" * 255, "é.日本"])
payloads = st.binary(max_size=300) | st.binary(min_size=1, max_size=16)


def golden(
    *,
    topic: bytes = b"md.a",
    block: bytes = b"",
    payload: bytes = b"hello",
    kind: int = 1,
    flags: int | None = None,
    version: int = 1,
    magic: bytes = b"HRMS",
    sequence: int = 7,
    payload_len: int | None = None,
    crc: int | None = None,
) -> bytes:
    """A frame put together by hand, from the table in hm_frame.h; ``block`` has a length, no padding."""

    def padded(piece: bytes) -> bytes:
        return piece + bytes(-len(piece) % 8)

    if flags is None:
        flags = len(topic) | (256 if block else 0)
    start = magic + struct.pack("<BBH", version, kind, flags)
    length = len(payload) if payload_len is None else payload_len
    middle = struct.pack("<QI", 1_700_000_000_000_000_000, length)
    if crc is None:
        crc = google_crc32c.value(start + middle + topic + block + payload)
    head = start + struct.pack("<Q", sequence) + middle + struct.pack("<I", crc)
    return head + padded(topic) + padded(block) + padded(payload)


def encoded(payload: bytes = b"hello", topic: str = "md.a", **more: Any) -> bytes:
    encoder = Encoder()
    encoder.encode(payload, topic=topic, sequence=7, timestamp_ns=1_700_000_000_000_000_000, **more)
    return bytes(encoder.view)


class TestGolden:
    def test_a_message(self) -> None:
        """A message is the bytes that the format's table asks for."""
        expected = bytes.fromhex(
            "48524d53 01 01 0400 0700000000000000 00002a36fe9c9717 05000000 c1a81ba4"
            "6d642e6100000000 68656c6c6f000000"
        )

        assert encoded() == golden() == expected

    def test_a_message_with_properties(self) -> None:
        """The property block has its length first and is padded; the checksum covers both."""
        block = struct.pack("<I", 9) + b"key=value"

        assert encoded(properties=b"key=value") == golden(block=block)

    def test_a_control_frame(self) -> None:
        """A control frame is a header and a payload."""
        encoder = Encoder()

        encoder.encode(
            b"\x80", type=MessageType.PING, sequence=7, timestamp_ns=1_700_000_000_000_000_000
        )

        assert bytes(encoder.view) == golden(topic=b"", kind=25, payload=b"\x80")

    def test_a_batch(self) -> None:
        """A batch's checksum covers header and prefix, whatever follows."""
        envelope = encode_batch(
            id=3, stream=2, after=10, through=12, frames_size=96, timestamp_ns=5
        )

        start = b"HRMS" + struct.pack("<BBH", 1, 2, 0)
        middle, prefix = struct.pack("<QI", 5, 24 + 96), struct.pack("<IIQQ", 3, 2, 10, 12)
        crc = google_crc32c.value(start + middle + prefix)
        assert envelope == start + bytes(8) + middle + struct.pack("<I", crc) + prefix
        assert decode_batch(envelope) == (3, 2, 10, 12, 5, 96)


class TestRoundTrip:
    @given(topics, payloads, st.binary(max_size=70), st.integers(0, 2**64 - 1), st.integers(0, 7))
    def test_any_message_at_any_address(
        self, topic: str, payload: bytes, properties: bytes, number: int, slip: int
    ) -> None:
        """Encoded frames are decoded, wherever the buffer begins."""
        encoder = Encoder()
        size = encoder.encode(
            payload, topic=topic, properties=properties, sequence=number, timestamp_ns=number
        )
        memory = bytearray(slip) + encoder.view

        [(header, found, content)] = Decoder(memoryview(memory)[slip:])

        assert (header.sequence, header.timestamp_ns) == (number, number)
        assert (found, bytes(content)) == (topic, payload)
        assert header.properties == bool(properties)
        assert (
            size == len(encoder) == frame_size(len(topic.encode()), len(payload), len(properties))
        )

    @given(topics, st.lists(payloads, max_size=30), st.integers(0, 2**63))
    def test_many_are_what_each_alone_would_be(
        self, topic: str, messages: list[bytes], first: int
    ) -> None:
        """``encode_many`` writes the bytes of one ``encode`` after another."""
        many, single = Encoder(), Encoder()

        many.encode_many(topic, messages, first_sequence=first, timestamp_ns=9)
        for number, message in enumerate(messages, first):
            single.encode(message, topic=topic, sequence=number, timestamp_ns=9)

        assert many.view == single.view
        assert [bytes(view) for view in decode(many.view).payloads()] == messages

    @pytest.mark.parametrize("step", [1, 3, -1, -2])
    def test_rows_of_a_strided_array(self, step: int) -> None:
        """Records of a slice, also backwards, come back as the same array."""
        records = np.zeros(50, dtype=[("price", "f8"), ("size", "u4")])
        records["price"] = np.arange(50) / 3
        rows = records[::step]
        encoder = Encoder()

        encoder.encode_rows("md.a", rows, first_sequence=1)

        index = decode(encoder.view)
        assert (index.rows(records.dtype) == rows).all()
        assert index.sequence.tolist() == list(range(1, len(rows) + 1))
        assert [bytes(view) for view in index.payloads()] == [row.tobytes() for row in rows]

    def test_rows_of_a_plain_buffer(self) -> None:
        """Rows need no NumPy: any buffer with a first dimension will do."""
        table = memoryview(bytes(range(24))).cast("B", (4, 6))
        encoder = Encoder()

        encoder.encode_rows("md.a", table)

        assert b"".join(decode(encoder.view).payloads()) == bytes(range(24))

    def test_numbers_come_back_as_rows_of_numbers(self) -> None:
        """A payload of several items is a row of that many."""
        table = np.arange(12, dtype="<i4").reshape(3, 4)
        encoder = Encoder()

        encoder.encode_rows("md.a", table)

        assert (decode(encoder.view).rows("<i4") == table).all()
        assert decode(encoder.view).rows().shape == (3, 16)

    def test_the_buffer_grows_and_old_views_stay(self) -> None:
        """Growing moves the buffer; a view from before still reads what it read."""
        encoder = Encoder()
        encoder.encode(b"first", topic="a")
        before = encoder.view
        copy = bytes(before)

        encoder.encode(bytes(1_000_000), topic="a")

        assert before == copy
        assert encoder.view[: len(copy)] == copy

    def test_clear_begins_anew(self) -> None:
        """After clear() the encoder holds only what is encoded from then on."""
        encoder = Encoder()
        encoder.encode(b"first", topic="a")

        encoder.clear()
        encoder.encode(b"second", topic="b")

        [(_, topic, payload)] = Decoder(encoder.view)
        assert (topic, bytes(payload)) == ("b", b"second")

    @given(st.lists(payloads, min_size=1, max_size=10), st.integers(1, 2**62))
    def test_stamping_changes_sequences_and_nothing_else(
        self, messages: list[bytes], first: int
    ) -> None:
        """After a stamp every frame is sound, and numbered from ``first``."""
        encoder = Encoder()
        encoder.encode_many("a.b", messages, first_sequence=0)
        frames = bytearray(encoder.view)

        count = stamp(frames, first)

        index = decode(frames)
        assert count == len(messages)
        assert index.sequence.tolist() == list(range(first, first + count))
        assert [bytes(view) for view in index.payloads()] == messages


class TestDecode:
    def test_columns_and_records_tell_the_same(self) -> None:
        """Columns, records as NumPy array, items and iteration describe the same frames."""
        encoder = Encoder()
        encoder.encode(b"one", topic="a", sequence=4, timestamp_ns=5)
        encoder.encode(b"twelve bytes", topic="a.longer.one", sequence=6, timestamp_ns=7)

        index = decode(encoder.view)

        table = index.numpy()
        assert len(index) == 2
        assert index.consumed == len(encoder)
        assert index.topic == ["a", "a.longer.one"]
        for column, field in [
            (index.sequence, "sequence"),
            (index.timestamp_ns, "timestamp_ns"),
            (index.frame_offset, "offset"),
            (index.offset, "payload_offset"),
            (index.length, "payload_len"),
            (index.topic_length, "topic_len"),
            (index.type, "type"),
        ]:
            assert column.tolist() == table[field].tolist()
            assert column.tolist() == [getattr(header, field) for header, _, _ in index]
        assert index[-1] == list(index)[1]
        with pytest.raises(IndexError):
            index[2]

    def test_the_index_keeps_its_buffer_alive(self) -> None:
        """Views of an index outlive every other reference to the buffer."""
        encoder = Encoder()
        encoder.encode(b"payload", topic="a")
        payload = decode(bytes(encoder.view)).payloads()[0]
        del encoder

        assert payload == b"payload"

    def test_an_unfinished_frame_ends_the_index(self) -> None:
        """Frames that are wholly there are decoded; ``consumed`` says where the rest begins."""
        data = golden() + golden()[:20]

        assert (len(decode(data)), decode(data).consumed) == (1, 48)

    def test_an_empty_buffer_has_an_empty_index(self) -> None:
        """Nothing is a sound number of frames: every column is empty, and nothing raises."""
        index = decode(b"")

        assert (len(index), index.consumed, list(index), index.topic) == (0, 0, [], [])
        assert (index.sequence.tolist(), len(index.numpy()), len(index.rows())) == ([], 0, 0)

    def test_messages_without_payload_have_rows_of_nothing(self) -> None:
        """An empty payload is a payload."""
        encoder = Encoder()
        encoder.encode_rows("a", np.zeros((3, 0), "u1"))

        assert decode(encoder.view).rows().shape == (3, 0)

    def test_rows_need_one_size(self) -> None:
        """Payloads of different sizes are no array."""
        encoder = Encoder()
        encoder.encode_many("a", [b"12345678", b"123456"])

        with pytest.raises(UsageError, match="one size"):
            decode(encoder.view).rows()

    def test_a_batch_is_entered_by_the_decoder(self) -> None:
        """The decoder gives the envelope, then each message, over as many batches as there are."""
        encoder = Encoder()
        encoder.encode_many("a", [b"1", b"2"], first_sequence=1)
        envelope = encode_batch(id=1, after=0, through=2, frames_size=len(encoder))
        decoder = Decoder((envelope + encoder.view) * 2)

        found = [(header.type, header.sequence) for header, _, _ in decoder]

        assert found == [(MessageType.BATCH, 0), (MessageType.MESSAGE, 1), (1, 2)] * 2
        assert (decoder.consumed, decoder.needed) == (len(decoder.buffer), 0)

    def test_more_frames_than_a_decoder_looks_ahead(self) -> None:
        """The place at which the decoder fetches its next lot is not to be seen."""
        encoder = Encoder()
        encoder.encode_many("a", [b"%d" % n for n in range(3000)])
        size = len(encoder)

        found = [int(bytes(payload)) for _, _, payload in Decoder(encoder.view)]

        assert found == list(range(3000))
        assert decode(encoder.view).consumed == size

    @given(st.data())
    def test_any_cut_gives_the_frames_before_it(self, data: st.DataObject) -> None:
        """However many bytes are there, whole frames come out; ``needed`` says what is lacking."""
        sizes = data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=8))
        encoder = Encoder()
        encoder.encode_many("a.b", [bytes(size) for size in sizes])
        stream = bytes(encoder.view)
        cut = data.draw(st.integers(0, len(stream)))
        decoder = Decoder(stream[:cut])

        count = sum(1 for _ in decoder)

        ends = [sum(frame_size(3, size) for size in sizes[:n]) for n in range(len(sizes) + 1)]
        assert count == max(n for n, end in enumerate(ends) if end <= cut)
        assert decoder.consumed == ends[count]
        if decoder.consumed == cut:
            assert decoder.needed == 0
        else:
            assert cut < decoder.consumed + decoder.needed <= ends[count + 1]

    def test_sound_frames_before_a_bad_one_are_handed_out(self) -> None:
        """The decoder gives what is sound, then raises with the offset of what is not."""
        found = []

        with pytest.raises(MalformedInput) as caught:
            found.extend(Decoder(golden() + golden(crc=1)))

        assert len(found) == 1
        assert (caught.value.code, caught.value.offset) == ("bad_checksum", 48)

    def test_a_topic_that_is_not_text(self) -> None:
        """A frame may be sound and its topic not UTF-8: asking for the topic says so."""
        data = golden(topic=b"\xff\xfe")

        with pytest.raises(MalformedInput) as caught:
            list(Decoder(data))

        assert caught.value.code == "bad_topic"


BLOCK = struct.pack("<I", 9) + b"key=value"
SOUND = golden(block=BLOCK)
BATCH = encode_batch(id=1, after=0, through=1, frames_size=48)


def changed(frame: bytes, at: int, value: int = 1) -> bytes:
    return frame[:at] + bytes([value]) + frame[at + 1 :]


def batch(payload_len: int, after: int = 0, through: int = 1) -> bytes:
    prefix = struct.pack("<IIQQ", 1, 0, after, through)
    return golden(topic=b"", kind=2, payload=prefix, payload_len=payload_len)


REFUSALS = {
    "magic": (changed(SOUND, 0), "bad_magic"),
    "magic, of one byte": (b"h", "bad_magic"),
    "magic, of three bytes": (b"HRm", "bad_magic"),
    "version 0": (golden(version=0), "unsupported_version"),
    "version 2": (golden(version=2), "unsupported_version"),
    "version, of five bytes": (b"HRMS\x02", "unsupported_version"),
    "type 0": (golden(kind=0), "bad_type"),
    "type between the known ones": (golden(kind=3), "bad_type"),
    "type 31": (golden(kind=31), "bad_type"),
    "type, of six bytes": (b"HRMS\x01\x00", "bad_type"),
    "reserved flag": (golden(flags=4 | 1 << 9), "bad_flags"),
    "reserved flag beside properties": (golden(block=BLOCK, flags=4 | 3 << 8), "bad_flags"),
    "topic on a control frame": (golden(kind=25), "bad_flags"),
    "properties on a control frame": (golden(topic=b"", kind=25, block=BLOCK), "bad_flags"),
    "topic on a batch": (golden(kind=2, payload=bytes(24)), "bad_flags"),
    "payload over the limit": (golden(payload_len=1001), "bad_length"),
    "payload of 4 GiB": (golden(payload_len=2**32 - 1), "bad_length"),
    "empty property block": (golden(block=bytes(4)), "bad_length"),
    "property block over its limit": (golden(block=struct.pack("<I", 65537)), "bad_length"),
    "batch too short for its prefix": (batch(16), "bad_length"),
    "batch of frames that are not whole": (batch(24 + 4), "bad_length"),
    "batch over its limit": (batch(1000 + 2**20 + 8), "bad_length"),
    "topic's padding": (changed(SOUND, 32 + 4), "bad_padding"),
    "properties' padding": (changed(SOUND, 40 + 13), "bad_padding"),
    "payload's padding, first byte": (changed(SOUND, 56 + 5), "bad_padding"),
    "payload's padding, last byte": (changed(SOUND, 56 + 7, 0x80), "bad_padding"),
    "checksum": (changed(SOUND, 28, SOUND[28] ^ 1), "bad_checksum"),
    "checksum of a batch": (golden(topic=b"", kind=2, payload=bytes(24), crc=0), "bad_checksum"),
}


class TestRefusals:
    @pytest.mark.parametrize(("data", "code"), REFUSALS.values(), ids=REFUSALS.keys())
    def test_malformed(self, data: bytes, code: str) -> None:
        """Each way to be malformed has its own name, and is found behind a sound frame too."""
        with pytest.raises(MalformedInput) as caught:
            list(Decoder(golden() + data, message_max=1000))

        assert (caught.value.code, caught.value.offset) == (code, 48)

    def test_a_batch_that_ends_before_it_begins(self) -> None:
        """``after`` beyond ``through`` is malformed."""
        prefix = struct.pack("<IIQQ", 1, 0, 5, 4)

        with pytest.raises(MalformedInput) as caught:
            decode_batch(golden(topic=b"", kind=2, payload=prefix))

        assert caught.value.code == "bad_sequence"

    def test_a_batch_is_not_indexed(self) -> None:
        """The vectorised decode takes frames, not envelopes."""
        with pytest.raises(MalformedInput) as caught:
            decode(BATCH)

        assert caught.value.code == "bad_type"

    def test_every_byte_that_the_checksum_covers(self) -> None:
        """A flipped bit anywhere but in the sequence makes the frame unsound."""
        for at in range(len(SOUND)):
            for bit in range(8):
                broken = changed(SOUND, at, SOUND[at] ^ 1 << bit)
                if 8 <= at < 16:
                    assert len(decode(broken)) == 1
                    continue
                decoder = Decoder(broken, message_max=2**32 - 1)
                try:
                    count = len(list(decoder))
                except MalformedInput:
                    continue
                assert (count, decoder.needed > len(broken)) == (
                    0,
                    True,
                )  # it got longer

    @given(st.binary(max_size=200))
    def test_any_bytes_are_answered(self, data: bytes) -> None:
        """Any bytes are answered by a sound frame, MalformedInput, or a call for more bytes."""
        decoder = Decoder(b"HRMS\x01\x01" + data)
        malformed = None

        try:
            list(decoder)
        except MalformedInput as error:
            malformed = error

        if malformed is not None:
            assert malformed.offset == decoder.consumed
        else:
            assert decoder.needed > 0 or decoder.consumed == len(decoder.buffer)


class TestUsage:
    """Mistakes of a caller are told before the core is entered."""

    def test_an_illegal_topic(self) -> None:
        """A message needs a legal topic."""
        for topic in ("", "a..b", "*"):
            with pytest.raises(InvalidTopic):
                Encoder().encode(b"", topic=topic)

    def test_a_payload_over_the_limit(self) -> None:
        """No way of encoding takes a payload over the encoder's limit, and nothing is added."""
        encoder = Encoder(message_max=10)

        with pytest.raises(MessageTooLarge, match="11 bytes"):
            encoder.encode(bytes(11), topic="a")
        with pytest.raises(MessageTooLarge, match="11 bytes"):
            encoder.encode_many("a", [b"", bytes(11)])
        with pytest.raises(MessageTooLarge, match="11 bytes"):
            encoder.encode_rows("a", np.zeros((2, 11), "u1"))
        assert len(encoder) == 0

    def test_properties_over_the_limit(self) -> None:
        """Properties have a bound of their own."""
        with pytest.raises(MessageTooLarge, match="65537 bytes"):
            Encoder().encode(b"", topic="a", properties=bytes(65537))

    def test_a_payload_that_is_no_buffer(self) -> None:
        """Text is refused, with what to do."""
        with pytest.raises(UsageError, match="not str: encode it"):
            Encoder().encode("text", topic="a")  # type: ignore[arg-type]

    def test_lengths_that_do_not_add_up(self) -> None:
        """Lengths must cover the joined buffer exactly."""
        with pytest.raises(UsageError, match="do not add up"):
            Encoder().encode_joined("a", b"12345", array("I", [2, 2]))

    def test_lengths_of_another_type(self) -> None:
        """Lengths of 8 bytes would be misread: they are refused."""
        with pytest.raises(UsageError, match="32-bit"):
            Encoder().encode_joined("a", b"12345", array("Q", [5]))

    def test_rows_that_do_not_lie_in_one_piece(self) -> None:
        """A row with holes in it is refused, with what to do."""
        with pytest.raises(UsageError, match="ascontiguousarray"):
            Encoder().encode_rows("a", np.zeros((4, 4), "u1")[:, ::2])

    @pytest.mark.parametrize("kind", [MessageType.BATCH, 0, 3, 31])
    def test_a_type_that_is_not_to_be_encoded(self, kind: int) -> None:
        """Batches have an envelope of their own; other numbers are no types."""
        with pytest.raises(UsageError):
            Encoder().encode(b"", type=kind)

    def test_a_topic_on_a_control_frame(self) -> None:
        """Only messages have topics."""
        with pytest.raises(UsageError):
            Encoder().encode(b"", type=MessageType.PING, topic="a")

    def test_stamping_what_is_read_only_or_torn(self) -> None:
        """A stamp needs memory it may write, and whole frames."""
        with pytest.raises(UsageError, match="writable"):
            stamp(golden(), 1)  # type: ignore[arg-type]
        for torn in (golden()[:-8], golden()[:12], golden(block=BLOCK)[:40]):
            with pytest.raises(MalformedInput):
                stamp(bytearray(torn), 1)

    def test_an_impossible_envelope(self) -> None:
        """An envelope states a range that goes forward and whole frames."""
        with pytest.raises(UsageError, match="before it begins"):
            encode_batch(id=1, after=2, through=1, frames_size=0)
        with pytest.raises(UsageError, match="whole frames"):
            encode_batch(id=1, after=1, through=1, frames_size=4)


def test_the_header_is_a_cast() -> None:
    """The struct's fields lie where the format says: a frame can be read in place."""
    data = golden()

    header = ffi.cast("hm_frame_header *", ffi.from_buffer(data))

    assert (header.version, header.type, header.flags) == (1, MessageType.MESSAGE, 4)
    assert (header.sequence, header.payload_len) == (7, 5)
    assert header.magic == int.from_bytes(b"HRMS", "little")
    assert lib.hm_frame_skip(ffi.cast("uint8_t *", header)) == len(data)


def test_no_byte_beyond_a_buffer_is_touched(run_c: RunC) -> None:
    """Encode, check, index and stamp stay inside buffers that end where their allocation does."""
    said = run_c("frame_roundtrip.c", sanitizer="address,undefined")

    assert "table ok" in said
