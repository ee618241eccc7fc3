from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.codecs.data import DataSpec
from fedquant.codecs.dataq import DataQ
from fedquant.codecs.grid import Quantized
from fedquant.codecs.refine import refine, refined
from fedquant.errors import CodecError
from fedquant.kernels import pack, rng
from fedquant.keys import Key

KEY = Key(13)
QUICK = settings(max_examples=80, deadline=None, derandomize=True)


def samples(n: int, d: int, power: int = 1, signed: bool = True) -> np.ndarray:
    x = rng.uniform(KEY, n * d).reshape(n, d) * np.float32(2) - np.float32(1)
    x = (x if signed else np.abs(x)) ** power
    x[2::5] = 0
    return x


def held(x: np.ndarray, m: int, scale: str, rounding: str = "floor") -> Quantized:
    codec, spec = DataQ(m, scale, rounding), DataSpec(x.shape[1:], len(x), 0)  # type: ignore[arg-type]
    return codec.decode_levels(codec.encode(x, np.zeros(0, int), spec, KEY), spec, KEY)[0]


@QUICK
@given(
    st.integers(0, 12),
    st.integers(1, 40),
    st.sampled_from([2, 3, 8, 33]),
    st.sampled_from([2, 3, 7, 256]),
    st.sampled_from([1, 5]),
    st.booleans(),
)
def test_refined_samples_are_samples_quantized_finer(
    n: int, d: int, m: int, r: int, power: int, signed: bool
) -> None:
    x = samples(n, d, power, signed)
    coarse = held(x, m, "l2")
    body, mine = refine(x, coarse, r)
    theirs = refined(body, coarse, r)
    direct = held(x, (m - 1) * r + 1, "l2")
    for got in (mine, theirs):
        assert got.m == direct.m
        assert np.array_equal(got.levels, direct.levels)
        assert np.array_equal(got.samples(), direct.samples())
        assert np.array_equal(got.scales, coarse.scales)


@QUICK
@given(st.integers(1, 12), st.integers(1, 40), st.sampled_from([2, 8, 33]), st.sampled_from([2, 3, 16]))
def test_refinement_of_scale_max(n: int, d: int, m: int, r: int) -> None:
    x = samples(n, d)
    coarse = held(x, m, "max")
    body, mine = refine(x, coarse, r)
    theirs = refined(body, coarse, r)
    direct = held(x, (m - 1) * r + 1, "max")
    assert np.array_equal(mine.levels, theirs.levels)
    assert np.array_equal(mine.samples(), theirs.samples())
    # scale max computes in float32: within 2⁻²² of a coarse level the two grids may disagree by one
    near = np.abs(x).astype(float) / max(np.abs(x).max(), 1e-30) * (m - 1)
    close = np.abs(near - np.round(near)) <= m * 2.0**-21
    assert (np.abs(theirs.levels - direct.levels) <= close).all()
    assert np.abs(theirs.samples() - x).max() <= np.abs(x).max() / (direct.m - 1) * (1 + 2.0**-10)


def test_step_by_step_is_at_once() -> None:
    x = samples(20, 30)
    coarse = held(x, 8, "l2")
    _, once = refine(x, coarse, 12)
    middle = refined(refine(x, coarse, 3)[0], coarse, 3)
    twice = refined(refine(x, middle, 4)[0], middle, 4)
    assert twice.m == once.m == 85
    assert np.array_equal(twice.levels, once.levels)


def test_known_values() -> None:
    x = np.array([[1.0, -0.9, 0.45, -0.3, 0.0, -0.05]], np.float32)
    coarse = Quantized(np.array([[2, -1, 0, 0, 0, 0]], np.int32), np.ones(1, np.float32), 3, "max")
    body, fine = refine(x, coarse, 5)
    assert fine.levels.tolist() == [[10, -9, 4, -3, 0, 0]]
    # mode; digits 0 and 4 of five: 25 numbers; then 4, −3, 0, 0 of nine: 6561
    assert body == bytes([0, 0 * 5 + 4]) + (8 * 729 + 1 * 81 + 4 * 9 + 4).to_bytes(2, "little")
    back = refined(body, coarse, 5)
    assert back.levels.tolist() == fine.levels.tolist()
    assert np.abs(back.samples() - x).max() <= 0.1


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("power", [1, 9])
def test_it_takes_log_r_bits_where_digits_are_even_and_less_where_not(signed: bool, power: int) -> None:
    x, r = samples(64, 200, power, signed), 4
    coarse = held(x, 16, "max")
    body, _ = refine(x, coarse, r)
    inner = int((coarse.levels == 0).sum())
    fixed = pack.radix_size(x.size - inner, r) + pack.radix_size(inner, 2 * r - 1 if signed else r)
    assert len(body) <= 1 + fixed
    if power == 9:
        assert body[0] & 1
        assert len(body) < 0.8 * fixed
    assert bool(body[0] & 0x10) is not signed
    # in all it is about what the fine grid would have cost alone, which fixed-length codes would not be
    whole = pack.radix_size(x.size, 121 if signed else 61)
    assert len(body) + pack.radix_size(x.size, 31 if signed else 16) <= 1.2 * whole


def test_samples_without_scale_take_nothing() -> None:
    x = np.zeros((4, 9), np.float32)
    for scale in ("max", "l2"):
        coarse = held(x, 8, scale)
        body, fine = refine(x, coarse, 4)
        assert len(body) == 1
        assert not refined(body, coarse, 4).levels.any()
        assert fine.m == 29


def test_rows_of_different_batches_keep_their_scales() -> None:
    x = samples(10, 6)
    x[5:] *= 3
    parts = [held(x[:5], 8, "max"), held(x[5:], 8, "max")]
    coarse = Quantized(
        np.concatenate([p.levels for p in parts]), np.concatenate([p.scales for p in parts]), 8, "max"
    )
    back = refined(refine(x, coarse, 9)[0], coarse, 9).samples()
    for i, part in enumerate(parts):
        rows = slice(5 * i, 5 * i + 5)
        assert np.array_equal(back[rows], refine(x[rows], part, 9)[1].samples())


# ---- what is refused


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_samples_that_were_not_rounded_toward_zero_are_refused(rounding: str) -> None:
    x = samples(10, 6)
    with pytest.raises(CodecError, match="not the samples rounded toward zero"):
        refine(x, held(x, 8, "l2", rounding), 9)
    with pytest.raises(CodecError, match="not the samples rounded toward zero"):
        refine(-x, held(x, 8, "max"), 9)


@pytest.mark.parametrize(("m", "r"), [(8, 1), (8, 0), (8, 9363), (65536, 2)])
def test_grids_too_fine_are_refused(m: int, r: int) -> None:
    x = samples(2, 3)
    for act in (lambda: refine(x, held(x, m, "max"), r), lambda: refined(b"\0", held(x, m, "max"), r)):
        with pytest.raises(CodecError, match="up to 65536"):
            act()


def test_hostile_bodies_are_refused_or_on_the_grid() -> None:
    x, r = samples(6, 9), 5
    coarse = held(x, 8, "l2")
    true = refine(x, coarse, r)[0]
    many = held(samples(60, 90, 9), 8, "l2")
    entropy_coded = refine(samples(60, 90, 9), many, r)[0]
    assert entropy_coded[0] & 1
    refused = 0
    for trial in range(400):
        size = len(true) if trial % 2 else trial // 2
        noise = bytearray((rng.uint32(KEY.fold(round=trial), size) & 0xFF).astype(np.uint8).tobytes())
        if noise:
            noise[0] = [0, 1, 0x10, 0x11, noise[0]][trial % 5]
        try:
            got = refined(bytes(noise), coarse, r)
        except CodecError:
            refused += 1
        else:
            assert np.abs(got.levels).max() < got.m
            assert np.isfinite(got.samples()).all()
    assert refused
    for size in range(0, len(entropy_coded), 7):
        with pytest.raises(CodecError):
            refined(entropy_coded[:size], many, r)


def test_a_digit_beyond_the_last_level_is_refused() -> None:
    coarse = Quantized(np.array([[2]], np.int32), np.ones(1, np.float32), 3, "max")
    assert refined(bytes([0, 0]), coarse, 5).levels.tolist() == [[10]]
    with pytest.raises(CodecError, match="leaves its cell"):
        refined(bytes([0, 1]), coarse, 5)


def test_bits_per_number() -> None:
    """Uniform digits: log2 r a number, and the sign where the coarse level was 0."""
    x, r = samples(100, 100), 16
    coarse = held(x, 8, "max")
    inner = int((coarse.levels == 0).sum())
    bits = (x.size - inner) * math.log2(r) + inner * math.log2(2 * r - 1)
    assert len(refine(x, coarse, r)[0]) <= bits / 8 * 1.01 + 3
