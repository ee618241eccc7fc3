"""What codecs that call themselves unbiased owe: the mean of what they decode, and an error within γ‖x‖².

T payloads of one vector, each under another sensor's key, give errors e_t. Tolerances come from the errors
themselves. With probability 1 − δ the mean of T numbers in a range R, of sample variance V, is within

    √(2·V·L/T) + 7·R·L/(3(T−1)),  L = ln(4/δ)      (Maurer and Pontil, 2009, Theorem 4, for both sides)

of its expectation, whatever the distribution; δ = 10⁻⁷ shared by the numbers compared. Keys are fixed: a
test that passes keeps passing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
import pytest

from fedquant.codecs.base import Array, Body, Codec, Spec, State
from fedquant.codecs.data import DataCodec, DataSpec
from fedquant.codecs.qsgd import QSGD
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.wire import Knobs
from tests.fuzz.configs import configs, label, specs

T = 300
DELTA = 1e-7
KEY = Key(61)
SPECS = [Spec(60, dtype, (20, 60)) for dtype in ("float32", "float64")]
VECTORS = ["gaussian", "heavy-tailed", "sparse", "constant"]


def gaussian(n: int, stream: int) -> Array:
    """Normal numbers, by the inverse of their distribution at draws in (0, 1)."""
    u = rng.uniform(KEY.fold(round=1, stream=stream), n).astype(float) + 2.0**-25
    return np.array([NormalDist().inv_cdf(v) for v in u])


def vector(name: str, spec: Spec) -> Array:
    """x: float[size] with ‖x‖ near √size."""
    x = gaussian(spec.size, 0)
    if name == "heavy-tailed":  # Student's t of 3 degrees of freedom
        x /= np.sqrt(sum(gaussian(spec.size, i) ** 2 for i in (1, 2, 3)) / 3)
    elif name == "sparse":
        x *= 3 * (np.arange(spec.size) % 10 == 3)
    elif name == "constant":
        x = np.full(spec.size, 0.7)
    return x.astype(spec.dtype)


def unbiased() -> list[Any]:
    """(codec, spec) of every configuration that promises a γ which T keys can show.

    With a variance of γ‖x‖² a number may be sent once in 1 + γ payloads: at least 10 of T are wanted.
    """
    found = []
    for codec in configs("codec"):
        for spec in specs(codec, SPECS):
            gamma = codec.variance_bound(spec)
            if gamma is not None and gamma <= T / 10:
                found.append(pytest.param(codec, spec, id=f"{label(codec)}-{spec.dtype}"))
    return found


def errors(codec: Codec, x: Array, spec: Spec, n: int = T) -> Array:
    """float64[n, size]: x̂ − x of n sensors."""
    state, out = codec.init(spec), np.empty((n, spec.size))
    for i in range(n):
        key = KEY.fold(sensor=i)
        out[i] = codec.decode(codec.encode(x, spec, key, state)[0], spec, key)
    out -= x
    return out


def width(samples: Array) -> Any:
    """How far the mean over axis 0 may be from its expectation.

    R is that of all numbers compared: what is seldom sent has the range of what is sent often.
    """
    n = len(samples)
    log = math.log(4 * (samples.size // n) / DELTA)
    return np.sqrt(2 * samples.var(axis=0, ddof=1) * log / n) + 7 * np.ptp(samples) * log / (3 * (n - 1))


def check_mean(e: Array, x: Array) -> None:
    """E x̂ = x: each coordinate, along x and in norm. Raises AssertionError."""
    rounding = 2.0**-20 * np.abs(x).max()  # of float32, in scales, steps and products
    assert (np.abs(e.mean(axis=0)) <= width(e) + rounding).all(), "a coordinate is biased"
    along = e @ x.astype(float) / np.linalg.norm(x)
    assert abs(along.mean()) <= width(along) + rounding * math.sqrt(x.size), "biased along x"
    # For normal errors of any covariance, ‖mean‖² > z²·E‖e‖²/T is at most as likely as |normal| > z
    # (Székely and Bakirov, 2003): 2·10⁻⁹ at z = 6.
    spread = math.sqrt(float((e**2).sum(axis=1).mean()) / len(e))
    assert np.linalg.norm(e.mean(axis=0)) <= 6 * spread + rounding * math.sqrt(x.size), "biased in norm"


def check_variance(e: Array, x: Array, gamma: float) -> None:
    """E‖x̂ − x‖² ≤ γ‖x‖². Raises AssertionError."""
    squares, norm = (e**2).sum(axis=1), float(x.astype(float) @ x)
    rounding = 2.0**-40 * norm
    assert squares.mean() <= gamma * norm + width(squares) + rounding, "the variance exceeds its bound"


def check_independence(e: Array) -> None:
    """E⟨e_s, e_t⟩ = 0 for two sensors of one round. Raises AssertionError."""
    products = (e[0::2] * e[1::2]).sum(axis=1)
    # roundings that do not depend on the key are the same for every sensor
    rounding = 2.0**-40 * float((e**2).sum(axis=1).max())
    assert abs(products.mean()) <= width(products) + rounding, "two sensors' errors are correlated"


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize(("codec", "spec"), unbiased())
def test_unbiased_codecs_keep_their_promises(codec: Codec, spec: Spec, name: str) -> None:
    x, gamma = vector(name, spec), codec.variance_bound(spec)
    assert gamma is not None
    e = errors(codec, x, spec)
    check_mean(e, x)
    check_variance(e, x, gamma)
    if gamma > 0:
        check_independence(e)


@pytest.mark.parametrize("bucket", [4, 15, 60])
@pytest.mark.parametrize("s", [1, 3, 7])
def test_qsgd_has_the_variance_of_lemma_3_1(s: int, bucket: int) -> None:
    spec = Spec(2 * bucket)
    codec, x = QSGD(levels=s, norm="l2", scope=bucket), vector("gaussian", spec)
    e = errors(codec, x, spec)
    for start in range(0, spec.size, bucket):
        part, there = e[:, start : start + bucket], x[start : start + bucket].astype(float)
        norm = float(there @ there)
        assert (part**2).sum(axis=1).mean() <= min(bucket / s**2, math.sqrt(bucket) / s) * norm
        # exactly Σ(‖x‖/s)²·f(1−f), f the part of s|x|/‖x‖ above a level
        f = np.modf(s * np.abs(there) / math.sqrt(norm))[0]
        squares = (part**2).sum(axis=1)
        exact = norm / s**2 * float((f * (1 - f)).sum())
        assert abs(squares.mean() - exact) <= width(squares) + 1e-5 * norm


# ---- codecs of samples


STOCHASTIC = [c for c in configs("data_codec") if getattr(c, "rounding", None) == "stochastic"]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("codec", STOCHASTIC, ids=label)
def test_stochastic_samples_are_unbiased(codec: DataCodec, signed: bool) -> None:
    spec = DataSpec((5,), 8, 3)
    x = vector("gaussian", Spec(40)).reshape(8, 5)
    x = x if signed else np.abs(x)
    labels, e = np.arange(8) % 3, np.empty((T, 40))
    for i in range(T):
        key = KEY.fold(sensor=i)
        back, _ = codec.decode(codec.encode(x, labels, spec, key), spec, key)
        e[i] = (back.astype(float) - x).reshape(-1)
    check_mean(e, x.reshape(-1))
    check_independence(e)


def test_every_stochastic_rounding_is_found() -> None:
    assert {c.name for c in STOCHASTIC} == {
        c.name for c in configs("data_codec") if "rounding" in c.__dataclass_fields__
    }


# ---- the checks find what they are for


@dataclass(frozen=True)
class Bent(Codec):
    """QSGD with a fault: "floor" rounds toward 0, "shrunk" scales by 0.95, "shared" forgets the sensor."""

    name: ClassVar[str] = "bent"

    fault: str = ""

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        scale, s = float(np.abs(x).max()), 7
        level = np.abs(x.astype(float)) / scale * s
        if self.fault != "floor":
            level += rng.uniform(key.fold(sensor=0) if self.fault == "shared" else key, x.size)
        y = np.sign(x) * np.floor(level) * scale / s * (0.95 if self.fault == "shrunk" else 1)
        return Body(y.astype("<f4").tobytes(), lambda: y, state)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        return np.frombuffer(data, "<f4").astype(np.float32)


@pytest.mark.parametrize("name", VECTORS)
def test_a_sound_codec_passes(name: str) -> None:
    x = vector(name, SPECS[0])
    e = errors(Bent(), x, SPECS[0])
    check_mean(e, x)
    check_variance(e, x, 60 / (4 * 49))
    check_independence(e)


@pytest.mark.parametrize("fault", ["floor", "shrunk"])
def test_a_bias_is_found(fault: str) -> None:
    x = vector("gaussian", SPECS[0])
    with pytest.raises(AssertionError, match="biased"):
        check_mean(errors(Bent(fault), x, SPECS[0]), x)


def test_a_variance_beyond_its_bound_is_found() -> None:
    x = vector("gaussian", SPECS[0])
    e = errors(Bent(), x, SPECS[0])
    measured = float((e**2).sum(axis=1).mean() / (x.astype(float) @ x))
    check_variance(e, x, measured)
    with pytest.raises(AssertionError, match="exceeds its bound"):
        check_variance(e, x, measured * 0.8)


def test_sensors_that_share_draws_are_found() -> None:
    x = vector("gaussian", SPECS[0])
    with pytest.raises(AssertionError, match="correlated"):
        check_independence(errors(Bent("shared"), x, SPECS[0]))
