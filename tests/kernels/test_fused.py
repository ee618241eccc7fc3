from __future__ import annotations

from types import ModuleType

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedquant import kernels
from fedquant.errors import CodecError
from fedquant.kernels.compiled import fused as compiled
from fedquant.kernels.compiled import jit
from fedquant.kernels.reference import fused as reference
from fedquant.kernels.reference import pack, quantize, rng
from fedquant.keys import Key

KEY = Key(78, sensor=2)
MANY = jit.MANY + 4321
QUICK = settings(max_examples=80, deadline=None, derandomize=True)
GRIDS = [(2, 1)] + [(4, s) for s in range(1, 8)] + [(8, s) for s in range(1, 128)]
BLOCKS = [size + d for size in (256, 512, 1024, 4096) for d in (-1, 0, 1)]
SIZES = st.integers(0, 5000) | st.sampled_from(BLOCKS)
SCALES = st.floats(2.0**-149, 2.0**127, width=32) | st.sampled_from([1.0, 1e-42, 3e38])
ROUNDINGS: tuple[quantize.Rounding, ...] = ("floor", "nearest", "stochastic")
both = pytest.mark.parametrize("fused", [compiled, reference])


def vector(n: int, scale: float = 1.0, key: Key = KEY) -> np.ndarray:
    """Numbers in [-scale, scale], both ends and both zeros among them."""
    x = (rng.uniform(key, n) * np.float32(2) - np.float32(1)) * np.float32(scale)
    x[: min(n, 4)] = np.float32([scale, -scale, 0.0, -0.0])[:n]
    return x


def payload(n: int, s: int, bits: int, sensor: int = 0) -> bytes:
    return pack.pack_bits(rng.integers(KEY.fold(sensor=sensor), n, 2 * s + 1), bits)


@QUICK
@given(SIZES, st.sampled_from(GRIDS), SCALES, st.sampled_from(ROUNDINGS), st.integers(0, 2**32 - 6000))
@example(1030, (4, 7), 1e-42, "stochastic", 0)
@example(1030, (2, 1), 3e38, "stochastic", 0)
def test_quantizing_is_to_levels_then_pack_bits(
    n: int, grid: tuple[int, int], scale: float, rounding: quantize.Rounding, offset: int
) -> None:
    bits, s = grid
    x = vector(n, scale)
    expected = pack.pack_bits(quantize.to_levels(x, scale, s, rounding, KEY, offset), bits)
    for fused in (compiled, reference):
        data = fused.quantize_bits(x, scale, s, bits, rounding, KEY, offset)
        assert bytes(data) == expected
        fused.check_bits(data, n, s, bits)


@QUICK
@given(SIZES, st.sampled_from(GRIDS), SCALES)
def test_dequantizing_is_unpack_bits_then_from_levels(n: int, grid: tuple[int, int], scale: float) -> None:
    bits, s = grid
    data = payload(n, s, bits)
    expected = quantize.from_levels(pack.unpack_bits(data, n, bits), scale, s)
    for fused in (compiled, reference):
        assert fused.dequantize_bits(data, n, scale, s, bits).tobytes() == expected.tobytes()
        out = np.full(n + 2, 7, np.float32)
        part = out[1 : n + 1]
        assert fused.dequantize_bits(memoryview(data), n, scale, s, bits, part) is part
        assert part.tobytes() == expected.tobytes()
        assert out[0] == out[-1] == 7


@both
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("n", [0, 1, 5, 255, 257, 1000, 2049, 40001])
def test_wrong_lengths_are_refused(fused: ModuleType, bits: int, n: int) -> None:
    data = payload(n, 1, bits)
    for bad in (data + b"\0", data[:-1])[: 2 if n else 1]:
        for run in (fused.check_bits, lambda d, n, s, bits: fused.dequantize_bits(d, n, 1.0, s, bits)):
            with pytest.raises(CodecError, match=f"{len(bad)} bytes, expected {len(data)} for {n}"):
                run(bad, n, 1, bits)


@both
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("n", [1, 5, 255, 257, 1000, 1023, 1025, 2051, 40001])
def test_padding_that_is_not_zero_is_refused(fused: ModuleType, bits: int, n: int) -> None:
    per_byte = 8 // bits
    data = payload(n, 1, bits)
    tail = n % (256 * per_byte)
    height = -(-tail // per_byte)
    for missing in range(tail, height * per_byte):
        bad = bytearray(data)
        bad[len(data) - height + missing % height] |= 1 << bits * (missing // height)
        with pytest.raises(CodecError, match="padding is not zero"):
            fused.check_bits(bytes(bad), n, 1, bits)


@both
@QUICK
@given(SIZES.filter(bool), st.sampled_from(GRIDS), st.data())
def test_a_code_above_2s_is_refused(
    fused: ModuleType, n: int, grid: tuple[int, int], draw: st.DataObject
) -> None:
    bits, s = grid
    codes = np.full(n, 2 * s, np.uint32)
    fused.check_bits(pack.pack_bits(codes, bits), n, s, bits)
    codes[draw.draw(st.integers(0, n - 1))] = draw.draw(st.integers(2 * s + 1, 2**bits - 1))
    bad = pack.pack_bits(codes, bits)
    for run in (fused.check_bits, lambda d, n, s, bits: fused.dequantize_bits(d, n, 1.0, s, bits)):
        with pytest.raises(CodecError, match=f"a code is above 2s = {2 * s}"):
            run(bad, n, s, bits)


@QUICK
@given(SIZES, st.sampled_from(GRIDS), st.integers(0, 4))
def test_adding_is_one_payload_after_another(n: int, grid: tuple[int, int], clients: int) -> None:
    bits, s = grid
    datas = [payload(n, s, bits, i) for i in range(clients)]
    scales, weights = [0.1, 3.3, 1e-42, 2e18][:clients], [0.3, 1 / 3, 1e30, 7.7][:clients]
    start = vector(n, 5.0)
    expected = start.copy()
    for data, scale, weight in zip(datas, scales, weights, strict=True):
        expected += quantize.from_levels(pack.unpack_bits(data, n, bits), scale, s) * np.float32(weight)
    for fused in (compiled, reference):
        out = start.copy()
        fused.add_bits(out, datas, scales, weights, s, bits)
        assert out.tobytes() == expected.tobytes()


def test_a_term_is_rounded_before_it_is_added() -> None:
    # A fused multiply-add would keep the bits that rounding the product loses.
    n, s, bits = 4096, 7, 4
    data, scale, weight = payload(n, s, bits), 0.7, 1 / 3
    terms = quantize.from_levels(pack.unpack_bits(data, n, bits), scale, s)
    once = -(terms.astype(np.float64) * np.float64(np.float32(weight)))
    assert (once + (terms * np.float32(weight)) != 0).any()  # so the roundings are there to be seen
    out = -(terms * np.float32(weight))
    compiled.add_bits(out, [data], [scale], [weight], s, bits)
    assert not out.any()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("bits", "s"), [(2, 1), (4, 7), (8, 127)])
def test_many_numbers_on_many_threads(bits: int, s: int, threads: int) -> None:
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("numba was started with fewer threads")
    before = kernels.get_threads()
    kernels.set_threads(threads)
    try:
        x = vector(MANY)
        data = compiled.quantize_bits(x, 1.0, s, bits, "stochastic", KEY, 3)
        assert data == reference.quantize_bits(x, 1.0, s, bits, "stochastic", KEY, 3)
        values = reference.dequantize_bits(data, MANY, 0.3, s, bits)
        assert compiled.dequantize_bits(data, MANY, 0.3, s, bits).tobytes() == values.tobytes()
        out = x.copy()
        compiled.add_bits(out, [data, data], [0.3, 0.3], [0.7, 0.1], s, bits)
        assert np.array_equal(out, x + values * np.float32(0.7) + values * np.float32(0.1))
        bad = bytearray(data)
        bad[-1] = 255
        with pytest.raises(CodecError):
            compiled.check_bits(bytes(bad), MANY, s, bits)
    finally:
        kernels.set_threads(before)


@both
def test_the_last_draws_and_a_missing_key(fused: ModuleType) -> None:
    x, offset = vector(1500), 2**32 - 1500
    codes = quantize.to_levels(x, 1.0, 7, "stochastic", KEY, offset)
    assert fused.quantize_bits(x, 1.0, 7, 4, "stochastic", KEY, offset) == pack.pack_bits(codes, 4)
    with pytest.raises(ValueError, match="outside"):
        fused.quantize_bits(x, 1.0, 7, 4, "stochastic", KEY, offset + 1)
    with pytest.raises(ValueError, match="needs a key"):
        fused.quantize_bits(x, 1.0, 7, 4, "stochastic")
