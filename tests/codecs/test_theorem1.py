"""What DaQuSGD's paper proves: Theorem 1, for scale l2 with floor, and the examples of Section III."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant import wire
from fedquant.codecs.data import DataSpec
from fedquant.codecs.dataq import DataQ
from fedquant.codecs.lattice import shortest, simplex, units
from fedquant.kernels import pack, rng
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS

KEY = Key(7)
QUICK = settings(max_examples=80, deadline=None, derandomize=True)
E = math.e


def samples(n: int, d: int, seed: int) -> np.ndarray:
    """float32[n, d]: dense rows, and rows of a few large numbers."""
    x = (rng.uniform(Key(seed), n * d) * np.float32(2) - np.float32(1)).reshape(n, d)
    x[1::2] **= 9
    return x


def bound(d: int, m: int) -> float:
    """Theorem 1 (ii), bits."""
    sparse = m**2 * math.log2(E * (2 * d + m**2) / m**2)
    return 2 * math.log2(m) + min(2 * d * math.log2(E * (2 * d + m**2) / (2 * d)), sparse)


def encode(codec: DataQ, x: np.ndarray) -> tuple[bytes, DataSpec]:
    spec = DataSpec((x.shape[1],), len(x), 0)
    return codec.encode(x, np.zeros(len(x), int), spec, KEY), spec


@QUICK
@given(st.integers(1, 300), st.integers(2, 40), st.integers(0, 999))
def test_i_levels_are_in_s(d: int, m: int, seed: int) -> None:
    codec = DataQ(m, "l2")
    payload, spec = encode(codec, samples(6, d, seed))
    held, _ = codec.decode_levels(payload, spec, KEY)
    a, b = np.maximum(held.levels, 0), np.maximum(-held.levels, 0)
    assert ((a + b).sum(axis=1) <= (m - 1) ** 2).all()
    assert ((held.levels.astype(np.int64) ** 2).sum(axis=1) <= (m - 1) ** 2).all()


@QUICK
@given(st.integers(1, 300), st.integers(2, 40), st.integers(0, 999))
def test_iii_errors_and_norms(d: int, m: int, seed: int) -> None:
    codec, x = DataQ(m, "l2"), samples(6, d, seed)
    payload, spec = encode(codec, x)
    held, _ = codec.decode_levels(payload, spec, KEY)
    back, b = held.samples().astype(float), held.scales.astype(float)
    slack = b * 2.0**-23  # the result is rounded to float32
    assert (np.abs(x - back).max(axis=1) <= b / (m - 1) + slack).all()
    assert (np.linalg.norm(back, axis=1) <= (1 + math.sqrt(d) / (m - 1)) * b + slack * math.sqrt(d)).all()


@QUICK
@given(st.integers(1, 200), st.integers(2, 12), st.integers(0, 999))
def test_ii_an_index_takes_exactly_log_s_bits(d: int, m: int, seed: int) -> None:
    codec, n = DataQ(m, "l2", code="simplex"), 8
    payload, spec = encode(codec, samples(n, d, seed))
    most = (m - 1) ** 2
    size_of_s = math.comb(2 * d + most, most)
    bits = (size_of_s - 1).bit_length()
    assert 2 ** (bits - 1) < size_of_s <= 2**bits  # ⌈log2 |S|⌉
    assert bits <= bound(d, m)
    body = wire.unframe(payload, codec.context(spec, KEY, NO_KNOBS))
    assert len(body) == 1 + 1 + 4 * n + -(-n * bits // 8)  # mode, count, B of each, the indices


@pytest.mark.parametrize("d", [1, 2, 8, 64, 784, 3072, 150528])
def test_ii_holds_in_every_size(d: int) -> None:
    for m in (2, 3, 8, 11, 16, 64):
        most = units(d, m, "floor")
        bits = (math.comb(2 * d + most, most) - 1).bit_length()
        assert bits <= bound(d, m)
        tight = shortest(d, m, "floor", True)
        if tight is not None:
            assert tight.bits <= bits


def test_the_index_of_an_image() -> None:
    assert simplex(3072, 8, "floor").bits == 409
    payload, _ = encode(DataQ(8, "l2", code="simplex"), samples(1, 3072, 1))
    assert len(payload) == wire.HEADER_SIZE + 1 + 1 + 4 + 52
    payload, _ = encode(DataQ(8, "l2"), samples(1, 3072, 1))
    assert len(payload) <= wire.HEADER_SIZE + 1 + 1 + 4 + 51


# ---- Section III: gradients that live on few dimensions need far less than h bits


def coin(x: float, draw: float) -> int:
    """Q^e of (5) for x in [−1, 1]: 1 with probability (1 + x)/2."""
    return int(draw < (1 + x) / 2)


def test_example_1_a_single_bit_for_any_model_size() -> None:
    """ℓ(w, z) = z/√h·1ᵀw: every gradient is z/√h·1, and a bit about z is an unbiased gradient of norm 1."""
    h, n, steps = 1000, 400, 4000
    z = rng.uniform(Key(1), n).astype(float) - 0.3  # in [−.3, .7)
    mean = z.mean()
    picks, draws = rng.integers(Key(2), steps, n), rng.uniform(Key(3), steps)
    bits = np.array([coin(z[i], draw) for i, draw in zip(picks, draws, strict=True)], np.uint32)
    sent = pack.pack_bits(bits, 1)
    assert len(sent) == steps // 8
    quantized = 2.0 * pack.unpack_bits(sent, steps, 1) - 1
    gradients = quantized[:, np.newaxis] / math.sqrt(h) * np.ones(h)
    np.testing.assert_allclose(np.linalg.norm(gradients, axis=1), 1)
    truth = mean / math.sqrt(h) * np.ones(h)
    # Each coordinate is ±1/√h: sd at most that; they are all equal. 4 sigma of the mean of `steps`
    assert np.abs(gradients.mean(axis=0) - truth).max() <= 4 / math.sqrt(h * steps)
    # Projected SGD on the unit ball reaches its best, w = −sign(mean)·1/√h, where L = −|mean|
    w, average, eta = np.zeros(h), np.zeros(h), 1 / math.sqrt(steps)
    for gradient in gradients:
        w = w - eta * gradient
        w /= max(1.0, float(np.linalg.norm(w)))
        average += w / steps
    # The standard bound for convex L: distance²/2ηn + η/2 = 1/√n, in expectation; it is run once
    assert truth @ average - -abs(mean) <= 2 / math.sqrt(steps)


@pytest.mark.parametrize("h", [2, 8, 16])
def test_example_2_log_h_bits(h: int) -> None:
    """ℓ = f(wᵀv(z))/√h, v(z) = (1, z, …, z^(h−1)): bits about f' and z, z², z⁴, … give every z^i by products.

    All 2^(1 + log h) messages are enumerated, so that the expectation is exact.
    """
    digits = (h - 1).bit_length()
    w = (rng.uniform(Key(4), h).astype(float) - 0.5) / h
    for z in (-0.9, -0.2, 0.0, 0.5, 1.0):
        v = z ** np.arange(h)
        slope = -1 / (1 + math.exp(float(w @ v)))  # f = log(1 + exp(−wᵀv))
        truth = slope * v / math.sqrt(h)
        values = [slope, *(z ** (2**j) for j in range(digits))]
        expected = np.zeros(h)
        for message in itertools.product((0, 1), repeat=1 + digits):
            probability = math.prod(
                (1 + x) / 2 if bit else (1 - x) / 2 for x, bit in zip(values, message, strict=True)
            )
            signs = [2 * bit - 1 for bit in message]
            powers = [math.prod(signs[1 + j] for j in range(digits) if i >> j & 1) for i in range(h)]
            gradient = signs[0] * np.array(powers) / math.sqrt(h)
            assert np.linalg.norm(gradient) <= 1 + 1e-12
            expected += probability * gradient
        np.testing.assert_allclose(expected, truth, atol=1e-12)
    assert 1 + digits == 1 + math.ceil(math.log2(h))
