from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.errors import CodecError
from fedquant.kernels.compiled import pack as compiled
from fedquant.kernels.compiled import radix_plan
from fedquant.kernels.reference import pack as reference
from fedquant.kernels.reference import rng
from fedquant.keys import Key

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
BITS = [1, 2, 4, 8]
# one byte a group; a word or less; halves of one digit; single digits above 2**16; powers of two
LARGE = [511, 4096, 46341, 52015, 52016, 65535, 2**16, 2**16 + 1, 2**17 + 1, 2**24, 2**31 - 1, 2**31]
LEVELS = st.one_of(st.sampled_from([2, 3, 4, 7, 8, 15, 16, 31]), st.integers(2, 300), st.sampled_from(LARGE))
SEEDS = st.integers(0, 2**32)


def draw(n: int, levels: int, seed: int = 1) -> np.ndarray:
    return rng.integers(Key(seed), n, levels).astype(np.uint32)


def near(levels: int, blocks: int, step: int) -> int:
    """A size next to a whole number of blocks or groups."""
    k, _ = reference.radix_group(levels)
    return max(blocks * (64 * k if step < 3 else k) + step % 3 - 1, 0)


def check_radix(codes: np.ndarray, levels: int) -> None:
    data = compiled.pack_radix(codes, levels)
    assert data == reference.pack_radix(codes, levels)
    back = compiled.unpack_radix(data, codes.size, levels)
    assert back.dtype == (np.uint8 if levels <= 256 else np.uint32)
    assert np.array_equal(back, codes)


def end(unpack: Callable[..., np.ndarray], *given: object) -> list[int] | str:
    """The codes, or what the error says."""
    try:
        return unpack(*given).tolist()
    except CodecError as error:
        return str(error)


def check_same_end(data: bytes, n: int, levels: int) -> bool:
    """Both unpack to the same codes, or both raise the same; whether they raise."""
    expected = end(reference.unpack_radix, data, n, levels)
    assert end(compiled.unpack_radix, data, n, levels) == expected
    return isinstance(expected, str)


@QUICK
@given(st.integers(0, 6000), st.sampled_from(BITS), st.sampled_from(["u1", "u4", "i8"]), SEEDS)
def test_planar_bytes_are_the_references(n: int, bits: int, dtype: str, seed: int) -> None:
    codes = draw(n, 1 << bits, seed).astype(dtype)
    data = compiled.pack_bits(codes, bits)
    assert data == reference.pack_bits(codes, bits)
    back = compiled.unpack_bits(data, n, bits)
    assert back.dtype == np.uint8
    assert np.array_equal(back, codes)


@QUICK
@given(st.integers(1, 3000), st.sampled_from(BITS), st.integers(0, 2999), st.integers(0, 255))
def test_planar_corruption_ends_as_in_the_reference(n: int, bits: int, at: int, byte: int) -> None:
    data = bytearray(compiled.pack_bits(draw(n, 1 << bits), bits))
    data[-1 - at % len(data)] = byte
    given = bytes(data), n, bits
    assert end(compiled.unpack_bits, *given) == end(reference.unpack_bits, *given)


@pytest.mark.parametrize("bits", BITS)
def test_planar_refuses_wrong_lengths_and_padding(bits: int) -> None:
    data = compiled.pack_bits(draw(2100, 1 << bits), bits)
    for bad in (data[:-1], data + b"\0"):
        with pytest.raises(CodecError, match=f"{len(bad)} bytes, expected {len(data)}"):
            compiled.unpack_bits(bad, 2100, bits)
    if bits < 8:
        with pytest.raises(CodecError, match="padding is not zero"):
            compiled.unpack_bits(b"\xff", 8 // bits - 1, bits)


@QUICK
@given(LEVELS, st.integers(0, 3), st.integers(0, 5), SEEDS)
def test_radix_bytes_are_the_references(levels: int, blocks: int, step: int, seed: int) -> None:
    n = near(levels, blocks, step)
    check_radix(draw(n, levels, seed), levels)
    check_radix(np.full(n, levels - 1, np.uint32), levels)
    check_radix(np.zeros(n, np.uint32), levels)


@pytest.mark.parametrize("levels", [*range(2, 301), *LARGE])
def test_every_count_of_levels(levels: int) -> None:
    n = near(levels, 1, 2) + reference.radix_group(levels)[0] // 2
    codes = draw(n, levels)
    codes[::3] = levels - 1
    check_radix(codes, levels)


@pytest.mark.parametrize("levels", [2, 3, 15, 100])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">u4"])
def test_any_integers_are_taken(levels: int, dtype: str) -> None:
    codes = draw(6001, levels).astype(dtype)
    for some in (codes, codes[::2], codes[1:3001]):
        before = some.copy()
        assert compiled.pack_radix(some, levels) == reference.pack_radix(some, levels)
        assert np.array_equal(some, before)
        assert some.flags.writeable


@pytest.mark.parametrize("levels", [2, 3, 4, 16, 243, 250, 256])
def test_every_byte_of_a_group_ends_as_in_the_reference(levels: int) -> None:
    k, width = reference.radix_group(levels)
    assert width == 1
    raised = [check_same_end(bytes(63) + bytes([value]), 64 * k, levels) for value in range(256)]
    assert sum(raised) == 256 - levels**k
    raised = [check_same_end(bytes([value]), 1, levels) for value in range(256)]
    assert sum(raised) == 256 - levels


@pytest.mark.parametrize(
    "levels", [3, 5, 7, 8, 9, 15, 31, 63, 127, 257, 300, 1000, 4097, 46341, 65535, 131073]
)
def test_the_edges_of_a_group_end_as_in_the_reference(levels: int) -> None:
    k, width = reference.radix_group(levels)
    total, most = levels**k, 256**width - 1
    steps = len(radix_plan.plan(levels).powers)
    values = {0, 1, total - 1, total, total + 1, total + (1 << 8 * width - 5), most}
    values |= {total * i // steps + j for i in range(1, steps) for j in (-1, 0, 1)}
    values |= {levels**i + j for i in range(0, k, 1 + k // 20) for j in (-1, 0)}
    for value in sorted(v for v in values if 0 <= v <= most):
        group = value.to_bytes(width, "little")
        ends = {check_same_end(group * count, count * k, levels) for count in (1, 64, 65)}
        assert ends == {value >= total}


@QUICK
@given(LEVELS, st.integers(0, 2), st.integers(0, 5), st.binary(min_size=1, max_size=8), SEEDS)
def test_radix_corruption_ends_as_in_the_reference(
    levels: int, blocks: int, step: int, noise: bytes, seed: int
) -> None:
    n = near(levels, blocks, step)
    data = bytearray(compiled.pack_radix(draw(n, levels), levels))
    for i in range(len(data) and len(noise)):
        data[draw(len(noise), len(data), seed)[i]] = noise[i]
    check_same_end(bytes(data), n, levels)
    check_same_end(bytes(data) + noise, n, levels)
    check_same_end(b"\xff" * len(data), n, levels)


@pytest.mark.parametrize("levels", [0, 1])
def test_one_level_takes_no_bytes(levels: int) -> None:
    assert compiled.pack_radix(np.zeros(9, np.uint32), levels) == b""
    assert compiled.unpack_radix(b"", 9, levels).tolist() == [0] * 9
    with pytest.raises(CodecError, match="1 bytes, expected 0"):
        compiled.unpack_radix(b"\0", 9, levels)


@pytest.mark.parametrize("levels", [3, 15])
def test_more_than_one_thread_has_work(levels: int) -> None:
    codes = draw(1_100_003, levels)
    check_radix(codes, levels)
    k, width = reference.radix_group(levels)
    data = bytearray(compiled.pack_radix(codes, levels))
    at = 1_000_000 // k * width
    data[at : at + width] = b"\xff" * width
    assert check_same_end(bytes(data), codes.size, levels)
    small = codes.astype(np.uint8)
    data_of_bits = compiled.pack_bits(small, 4)
    assert data_of_bits == reference.pack_bits(small, 4)
    assert np.array_equal(compiled.unpack_bits(data_of_bits, small.size, 4), small)


@pytest.mark.parametrize("levels", [3, 5, 7, 9, 15, 17, 31, 100, 255, 257, 4097, 52015, 65535])
def test_reciprocals_divide_all_that_occurs(levels: int) -> None:
    plan = radix_plan.plan(levels)
    power, cut, cut_shift, m, single, shift = (int(d) for d in plan.divisors)
    if plan.half > 1:
        x = np.arange(power, dtype=np.uint64)
        assert m == levels
        assert np.array_equal(x * np.uint64(single) >> np.uint64(shift), x // np.uint64(levels))
    if plan.half:
        # the quotient can change at multiples of the divisor alone
        edges = np.arange(1, power, dtype=np.uint64) * np.uint64(power)
        x = np.concatenate([edges - np.uint64(1), edges, [np.uint64(power * power - 1)]])
        assert np.array_equal(x * np.uint64(cut) >> np.uint64(cut_shift), x // np.uint64(power))


def test_plans_leave_room_for_the_errors() -> None:
    for levels in [*range(2, 1200), *LARGE]:
        plan = radix_plan.plan(levels)
        rest, lost = levels**plan.digits, 0.0
        assert math.prod(int(p) for p in plan.powers) == rest
        for i, (kept, power) in enumerate(zip(plan.kept.tolist(), plan.powers.tolist(), strict=True)):
            units = -(-plan.width // 4) + 3 if i == 0 else 1  # of 1/T: see Plan
            lost += units * rest / 2.0 ** (32 * kept)
            rest //= power
        assert lost < 0.5
