"""CRC-32C: every variant this CPU has, against another implementation."""

from __future__ import annotations

import random
from collections.abc import Iterator

import google_crc32c
import pytest
from hermes.native._core import ffi, lib
from hypothesis import example, given
from hypothesis import strategies as st

VARIANTS = {
    "table": lib.HM_CRC32C_TABLE,
    "sse4.2": lib.HM_CRC32C_SSE42,
    "sse4.2+pclmul": lib.HM_CRC32C_PCLMUL,
    "armv8": lib.HM_CRC32C_ARMV8,
}


def name() -> str:
    return str(ffi.string(lib.hm_crc32c_variant()), "ascii")


CHOSEN = name()
AVAILABLE = [known for known, code in VARIANTS.items() if lib.hm_crc32c_select(code) == 0]
lib.hm_crc32c_select(VARIANTS[CHOSEN])


@pytest.fixture(params=AVAILABLE, scope="module")
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """One after another of the variants that this CPU has."""
    assert lib.hm_crc32c_select(VARIANTS[request.param]) == 0
    yield request.param
    assert lib.hm_crc32c_select(VARIANTS[CHOSEN]) == 0


def test_the_selected_variant_is_the_one_in_use(variant: str) -> None:
    """Selecting a variant changes what computes."""
    assert name() == variant


def test_the_fastest_variant_the_cpu_has_is_chosen() -> None:
    """Variants are numbered from slow to fast, the portable one first; loading takes the last."""
    assert AVAILABLE[0] == "table"
    assert AVAILABLE[-1] == CHOSEN


@pytest.mark.parametrize("code", [-1, 4, 1000])
def test_an_unknown_variant_is_refused(code: int) -> None:
    """Selecting a variant that does not exist changes nothing."""
    before = name()

    refused = lib.hm_crc32c_select(code)

    assert refused == -lib.HM_EINVAL
    assert name() == before


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0x00000000),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_vectors(variant: str, data: bytes, crc: int) -> None:
    """The check value of the polynomial's catalogue and the vectors of RFC 3720 come out."""
    assert lib.hm_crc32c(0, data, len(data)) == crc


def test_every_length_agrees_with_another_implementation(variant: str) -> None:
    """All lengths around the folds' thresholds, and large ones, give google-crc32c's checksum."""
    data = random.Random(1).randbytes(70_000)

    for size in [*range(1700), 4096, 65_535, 65_536, 65_537, 70_000]:
        assert lib.hm_crc32c(0, data[:size], size) == google_crc32c.value(data[:size]), size


@given(st.binary(max_size=2000), st.integers(0, 2000), st.integers(0, 7))
@example(bytes(96), 0, 0)
@example(bytes(3 * 64 * 8), 3 * 64 * 8, 1)
def test_pieces_at_any_address_give_the_checksum_of_the_whole(
    variant: str, data: bytes, cut: int, slip: int
) -> None:
    """A checksum may be continued at any byte, from memory of any alignment."""
    memory = ffi.new("uint8_t[]", len(data) + slip)
    ffi.memmove(memory + slip, data, len(data))
    cut = min(cut, len(data))

    first = lib.hm_crc32c(0, memory + slip, cut)
    whole = lib.hm_crc32c(first, memory + slip + cut, len(data) - cut)

    assert whole == google_crc32c.value(data)
