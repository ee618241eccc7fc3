from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.errors import CodecError
from fedquant.kernels import pack, rng
from fedquant.keys import Key

QUICK = settings(max_examples=50, deadline=None, derandomize=True)
KEY = Key(1)


def random_codes(n: int, levels: int) -> np.ndarray:
    return rng.integers(KEY, n, levels).astype(np.uint32)


@QUICK
@given(st.integers(0, 6000), st.sampled_from([1, 2, 4, 8]))
def test_planar_round_trip(n: int, bits: int) -> None:
    codes = random_codes(n, 1 << bits)
    data = pack.pack_bits(codes, bits)
    assert len(data) == pack.bits_size(n, bits)
    assert len(data) == math.ceil(n * bits / 8)
    assert np.array_equal(pack.unpack_bits(data, n, bits), codes)


def test_planar_layout_is_the_documented_one() -> None:
    # five codes of 2 bits: H = 2 bytes; byte 0 holds codes 0, 2, 4 and byte 1 holds 1, 3
    assert pack.pack_bits(np.array([1, 2, 3, 0, 2], np.uint32), 2) == bytes([0b10_11_01, 0b00_10])
    codes = np.arange(512, dtype=np.uint32) % 16
    data = np.frombuffer(pack.pack_bits(codes, 4), np.uint8)
    assert np.array_equal(data, codes[:256] | codes[256:] << 4)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_planar_refuses_wrong_lengths(bits: int) -> None:
    data = pack.pack_bits(random_codes(11, 1 << bits), bits)
    for bad in (data[:-1], data + b"\0"):
        with pytest.raises(CodecError, match=f"{len(bad)} bytes, expected {len(data)}"):
            pack.unpack_bits(bad, 11, bits)


def test_planar_refuses_padding() -> None:
    with pytest.raises(CodecError, match="padding is not zero"):
        pack.unpack_bits(b"\xff", 3, 2)


@QUICK
@given(st.integers(0, 400), st.integers(2, 300) | st.sampled_from([2**16, 2**17 + 1, 2**31 - 1, 2**31]))
def test_radix_round_trip(n: int, levels: int) -> None:
    for codes in (random_codes(n, levels), np.full(n, levels - 1, np.uint32), np.zeros(n, np.uint32)):
        data = pack.pack_radix(codes, levels)
        assert len(data) == pack.radix_size(n, levels)
        assert np.array_equal(pack.unpack_radix(data, n, levels), codes)


@pytest.mark.parametrize("levels", [2, 3, 5, 10, 15, 255, 131071])
def test_radix_groups_are_little_endian_integers(levels: int) -> None:
    k, width = pack.radix_group(levels)
    assert levels**k <= 256**width
    codes = random_codes(2 * k + 1, levels)
    value = 0
    for code in codes[:k].tolist():
        value = value * levels + code
    data = pack.pack_radix(codes, levels)
    assert int.from_bytes(data[:width], "little") == value
    assert int.from_bytes(data[2 * width :], "little") == codes[-1]


@pytest.mark.parametrize("levels", [3, 15, 4097])
def test_radix_blocks_hold_every_64th_code_in_one_group(levels: int) -> None:
    (k, width), codes = pack.radix_group(levels), random_codes(200 * pack.radix_group(levels)[0], levels)
    data = pack.pack_radix(codes, levels)
    for block, lane in ((0, 0), (0, 63), (2, 5)):
        value = 0
        for code in codes[64 * k * block :][lane : 64 * k : 64].tolist():
            value = value * levels + code
        at = (64 * block + lane) * width
        assert int.from_bytes(data[at : at + width], "little") == value
    assert np.array_equal(pack.unpack_radix(data, codes.size, levels), codes)


@QUICK
@given(st.integers(0, 100_000), st.integers(2, 1025))
def test_radix_is_within_a_hundredth_of_the_entropy(n: int, levels: int) -> None:
    entropy = n * math.log2(levels) / 8
    assert entropy - 1e-6 <= pack.radix_size(n, levels) <= entropy * 1.01 + 1


@pytest.mark.parametrize("levels", [0, 1])
def test_one_level_takes_no_bytes(levels: int) -> None:
    assert pack.pack_radix(np.zeros(9, np.uint32), levels) == b""
    assert pack.unpack_radix(b"", 9, levels).tolist() == [0] * 9
    with pytest.raises(CodecError, match="1 bytes, expected 0"):
        pack.unpack_radix(b"\0", 9, levels)


def test_radix_refuses_what_no_digits_give() -> None:
    k, width = pack.radix_group(3)
    for n in (k, 1):
        size = pack.radix_size(n, 3)
        with pytest.raises(CodecError, match="a group is not below"):
            pack.unpack_radix(b"\xff" * size, n, 3)
        for bad in (bytes(size - 1), bytes(size + 1)):
            with pytest.raises(CodecError, match=f"expected {size} for {n} of 3 levels"):
                pack.unpack_radix(bad, n, 3)
    top = (3**k - 1).to_bytes(width, "little")
    assert set(pack.unpack_radix(top, k, 3).tolist()) == {2}
    with pytest.raises(CodecError, match="a group is not below"):
        pack.unpack_radix((3**k).to_bytes(width, "little"), k, 3)
