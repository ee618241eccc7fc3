from __future__ import annotations

import math

import numpy as np
import pytest

from fedquant import registry, wire
from fedquant.codecs.base import Spec
from fedquant.codecs.data import DataSpec
from fedquant.codecs.dataq import DataQ
from fedquant.codecs.gradcorr import GradCorr
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key, Purpose
from fedquant.wire import NO_KNOBS

KEY = Key(9, round=2, sensor=3, purpose=Purpose.CORRECTION)
D, H = 4, 12


def uniform(key: Key, *shape: int) -> np.ndarray:
    return (rng.uniform(key, math.prod(shape)) * 2 - 1).reshape(shape).astype(np.float64)


A = uniform(Key(1), H, D)
LIPSCHITZ = float(np.linalg.norm(A, 2))


def gradient(z: np.ndarray) -> np.ndarray:
    """float64[h] of ℓ(w, z) = Σ w_i·tanh(a_iᵀz), whose C_z is at most ‖A‖₂; z: float64[n, d]."""
    return np.tanh(z @ A.T).mean(axis=0)


def sent(scale: str, n: int = 5, m: int = 3) -> tuple[np.ndarray, np.ndarray, float]:
    """(samples, what the server has of them, what both know of their distance)."""
    x, spec = uniform(Key(2), n, D).astype(np.float32), DataSpec((D,), n, 0)
    codec = DataQ(m, scale)  # type: ignore[arg-type]
    held, _ = codec.decode_levels(codec.encode(x, np.zeros(n, int), spec, KEY), spec, KEY)
    return x.astype(float), held.samples().astype(float), held.error_bound


# ---- Lemma 1


@pytest.mark.parametrize("scale", ["l2", "max"])
@pytest.mark.parametrize("index", ["shared", "sent"])
def test_the_corrected_gradient_is_unbiased(scale: str, index: str) -> None:
    h, n = 3, 6000
    z, z_q, bound = (np.abs(v) for v in sent(scale))
    weights = np.abs(A[:h])  # all errors push the same way, so that Δ is large
    delta = (z @ weights.T).mean(axis=0) - (z_q @ weights.T).mean(axis=0)
    lipschitz = float(np.linalg.norm(weights, 2))
    codec, spec, total = GradCorr(lipschitz, index), Spec(h), np.zeros(h)  # type: ignore[arg-type]
    for i in range(n):
        key = KEY.fold(round=i)
        correction = codec.encode(delta, spec, key, float(bound), 0.0)
        assert correction.clipped == 0
        at, value, _ = codec.decode(correction.payload, spec, key, float(bound))
        total[at] += value
    # Δ̂_i is ±c·h with probability 1/h: sd below c·√h; 5 sigma of the mean of n
    tolerance = 5 * lipschitz * float(bound) * math.sqrt(h / n)
    assert np.abs(total / n - delta).max() <= tolerance
    assert delta.max() > 2 * tolerance  # which tells Δ from no correction, and from −Δ, the sign of (10)


def test_the_corrected_gradient_stays_near() -> None:
    """Lemma 1: ‖ĝ − ∇L‖ ≤ C_z·B·(2 + (h+1)·√d/(m−1)), a sample at a time."""
    x, m, n = uniform(Key(3), 40, D).astype(np.float32), 5, 40
    codec, spec, data = GradCorr(LIPSCHITZ), Spec(H), DataSpec((D,), 1, 0)
    radius = float(np.linalg.norm(x.astype(float), axis=1).max())
    mean = gradient(x.astype(float))
    for i in range(n):
        key, dataq = KEY.fold(round=i), DataQ(m, "l2")
        held, _ = dataq.decode_levels(dataq.encode(x[i : i + 1], np.zeros(1, int), data, key), data, key)
        coarse = gradient(held.samples().astype(float))
        delta = gradient(x[i : i + 1].astype(float)) - coarse
        assert np.linalg.norm(delta) <= LIPSCHITZ * held.error_bound  # (8)
        at, value, _ = codec.decode(
            codec.encode(delta, spec, key, held.error_bound, 0.0).payload, spec, key, held.error_bound
        )
        coarse[at] += value
        limit = LIPSCHITZ * radius * (2 + (H + 1) * math.sqrt(D) / (m - 1))
        assert np.linalg.norm(coarse - mean) <= limit
        assert abs(value) == pytest.approx(H * LIPSCHITZ * held.error_bound)


# ---- bytes


def body(codec: GradCorr, payload: bytes, spec: Spec) -> bytes:
    return wire.unframe(payload, codec.context(spec, KEY, NO_KNOBS))


@pytest.mark.parametrize(
    ("config", "size", "n"),
    [
        ({"lipschitz": 1.0}, 1000, 1),
        ({"lipschitz": 1.0, "index": "sent"}, 1, 1),
        ({"lipschitz": 1.0, "index": "sent"}, 64, 1),
        ({"lipschitz": 1.0, "index": "sent"}, 65, 2),
        ({"lipschitz": 1.0, "index": "sent"}, 1 << 22, 3),
        ({}, 1000, 5),
        ({"index": "sent"}, 1000, 6),
    ],
)
def test_sizes(config: dict[str, object], size: int, n: int) -> None:
    codec, spec = GradCorr(**config), Spec(size)  # type: ignore[arg-type]
    delta = np.full(size, 0.01)
    correction = codec.encode(delta, spec, KEY, 1.0, 2.0)
    assert len(body(codec, correction.payload, spec)) == n
    got = codec.decode(correction.payload, spec, KEY, 1.0)
    assert 0 <= got.i < size
    assert abs(got.value) == correction.lipschitz * size
    assert not got.clipped


def test_both_sides_draw_the_same_index_and_all_are_drawn() -> None:
    spec, hits = Spec(20), np.zeros(20, int)
    for i in range(2000):
        key = KEY.fold(round=i)
        places = []
        for index in ("shared", "sent"):
            codec = GradCorr(1.0, index)  # type: ignore[arg-type]
            places.append(
                codec.decode(codec.encode(np.zeros(20), spec, key, 1.0, 0.0).payload, spec, key, 1.0).i
            )
        assert places[0] == places[1]
        hits[places[0]] += 1
    # binomial, 2000 draws at 1/20: sd 9.7, 5 sigma
    assert np.abs(hits - 100).max() <= 5 * math.sqrt(2000 * 0.05 * 0.95)


# ---- C_z


def test_the_estimate_is_the_largest_ratio_seen() -> None:
    codec, spec = GradCorr(), Spec(2)
    first = codec.encode(np.array([3.0, 4.0]), spec, KEY, 1.0, 2.0)
    assert first.lipschitz == 2.5
    assert first.clipped == 2  # both exceed c = 2.5·1: the mean distance 2 was beyond its bound
    later = codec.encode(np.array([0.3, 0.4]), spec, KEY, 1.0, 2.0, first.lipschitz)
    assert later.lipschitz == 2.5
    assert later.clipped == 0
    assert abs(codec.decode(later.payload, spec, KEY, 1.0).value) == 5.0
    assert codec.encode(np.array([3.0, 4.0]), spec, KEY, 1.0, 1.0, 2.5).lipschitz == 5.0


def test_an_estimate_never_clips_its_own_batch() -> None:
    for scale in ("l2", "max"):
        z, z_q, bound = sent(scale)
        distance = float(np.linalg.norm(z - z_q, axis=1).mean())
        correction = GradCorr().encode(gradient(z) - gradient(z_q), Spec(H), KEY, bound, distance)
        assert distance <= bound
        assert correction.clipped == 0
        assert 0 < correction.lipschitz <= LIPSCHITZ


def test_a_lipschitz_constant_too_small_is_counted() -> None:
    delta = np.array([0.5, -2.0, 3.0])
    correction = GradCorr(1.0).encode(delta, Spec(3), KEY, 1.0, 0.0)
    assert correction.clipped == 2
    for index in ("shared", "sent"):
        codec = GradCorr(1.0, index)  # type: ignore[arg-type]
        for there in (delta, delta / 3):
            correction = codec.encode(there, Spec(3), KEY, 1.0, 0.0)
            got = codec.decode(correction.payload, Spec(3), KEY, 1.0)
            assert got.clipped == (correction.clipped > 0) == (there is delta)
            assert abs(got.value) == 3.0


def test_nothing_lost_nothing_to_correct() -> None:
    for codec in (GradCorr(1.0), GradCorr()):
        correction = codec.encode(np.zeros(5), Spec(5), KEY, 0.0, 0.0)
        assert correction.clipped == 0
        assert codec.decode(correction.payload, Spec(5), KEY, 0.0).value == 0


# ---- what is refused


@pytest.mark.parametrize("delta", [np.zeros(4), np.zeros((5, 1)), np.full(5, np.nan)])
def test_bad_errors_are_refused(delta: np.ndarray) -> None:
    with pytest.raises(CodecError, match="expected 5"):
        GradCorr(1.0).encode(delta, Spec(5), KEY, 1.0, 0.0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(CodecError, match="does not fit float32"):
        GradCorr(1e30).encode(np.zeros(5), Spec(5), KEY, 1e9, 0.0)
    with pytest.raises(CodecError, match=r"C_z = .* does not fit float32"):
        GradCorr().encode(np.full(5, 1e30), Spec(5), KEY, 1.0, 1e-30)


@pytest.mark.parametrize(
    ("config", "bad"),
    [
        ({"lipschitz": 1.0}, b""),
        ({"lipschitz": 1.0}, b"\4"),
        ({"lipschitz": 1.0}, b"\1\0"),
        ({"lipschitz": 1.0, "index": "sent"}, b"\x14"),
        ({}, b"\1"),
        ({}, b"\0\0\x80\xbf\1"),
        ({}, b"\0\0\xc0\x7f\1"),
        ({}, b"\xff\xff\x7f\x7f\1"),
    ],
)
def test_bad_bodies_are_refused(config: dict[str, object], bad: bytes) -> None:
    codec, spec = GradCorr(**config), Spec(5)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="grad_corr"):
        codec.decode(wire.frame(bad, codec.context(spec, KEY, NO_KNOBS)), spec, KEY, 1.0)


def test_payloads_of_another_configuration_are_refused() -> None:
    payload = GradCorr(1.0).encode(np.zeros(5), Spec(5), KEY, 1.0, 0.0).payload
    for other in (GradCorr(2.0), GradCorr(), GradCorr(1.0, "sent")):
        with pytest.raises(CodecError, match="checksum differs"):
            other.decode(payload, Spec(5), KEY, 1.0)
    with pytest.raises(CodecError, match="checksum differs"):
        GradCorr(1.0).decode(payload, Spec(5), KEY.fold(round=3), 1.0)


def test_it_is_configured_like_a_codec() -> None:
    assert GradCorr(1) == GradCorr(1.0)
    assert GradCorr(1).identity == '["grad_corr",{"lipschitz":1.0}]'
    assert registry.config(GradCorr(2.0, "sent")) == {"name": "grad_corr", "lipschitz": 2.0, "index": "sent"}
