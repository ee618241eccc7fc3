from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fedquant import registry
from fedquant.codecs.base import Spec
from fedquant.codecs.error_feedback import ErrorFeedback
from fedquant.codecs.sparse import Sparse
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE

KEY = Key(33)
EPS = 2.0**-22  # M is rounded down to float32, which moves every p by 2⁻²³ of itself at most


def vector(n: int, sensor: int = 0) -> np.ndarray:
    """Heavy tails: cubes of uniform numbers, some of them 0."""
    x = (rng.uniform(Key(6, sensor=sensor), n) * np.float32(2) - np.float32(1)) ** 3
    x[::7] = 0
    return x


def spiked(n: int, ratio: float) -> np.ndarray:
    x = np.full(n, ratio, np.float32)
    x[n // 2] = -1
    return x


def probabilities(codec: Sparse, x: np.ndarray) -> np.ndarray:
    shared = float(codec.magnitude(x))
    size = np.abs(x).astype(float)
    return np.minimum(size / shared, 1) if shared else (size > 0).astype(float)


def second_moment(codec: Sparse, x: np.ndarray) -> float:
    """E‖x̂‖² = Σg²/p."""
    p = probabilities(codec, x)
    return math.fsum(np.square(x[p > 0].astype(float)) / p[p > 0])


def squares(x: np.ndarray) -> float:
    return math.fsum(np.square(x.astype(float)))


VECTORS = [
    vector(1),
    vector(2),
    vector(50),
    vector(3000),
    spiked(100, 1e-4),
    spiked(100, 0.1),
    spiked(100, 1.0),
    np.float32([4, -1, 1]),
    np.float32(2.0) ** np.arange(-60, 60, dtype=np.float32),
    np.array([1e-45, 3e-45, -1e-40], np.float32),
    np.array([3e38, -1e38, 2e38], np.float32),
]


@pytest.mark.parametrize("variance", [1e-6, 0.01, 0.5, 1.0, 7.0])
@pytest.mark.parametrize("x", [v for v in VECTORS if 1e-30 < np.abs(v).max() < 1e30], ids=len)
def test_the_closed_form_for_a_variance(x: np.ndarray, variance: float) -> None:
    a = sorted(np.abs(x).astype(float).tolist(), reverse=True)
    total = math.fsum(v * v for v in a)
    for k in range(len(a)):
        tail = math.fsum(a[k:])
        top = variance * total + math.fsum(v * v for v in a[k:])
        if a[k] * tail <= top:
            break
    expected = [1.0 if i < k else a[i] * tail / top for i in range(len(a))]
    found = sorted(probabilities(Sparse(variance=variance), x), reverse=True)
    np.testing.assert_allclose(found, expected, rtol=EPS)
    spent = second_moment(Sparse(variance=variance), x) / total
    assert spent == pytest.approx(1 + variance, rel=EPS)
    assert spent <= (1 + variance) * (1 + 1e-12)  # rounding M down never spends more


@pytest.mark.parametrize("density", [1e-3, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("x", [v for v in VECTORS if 1e-30 < np.abs(v).max() < 1e30], ids=len)
def test_the_greedy_algorithm_run_to_its_end_for_a_density(x: np.ndarray, density: float) -> None:
    size, m = np.abs(x).astype(float), max(density * x.size, 1.0)
    nonzero = int(np.count_nonzero(size))
    p = np.minimum(m * size / size.sum(), 1)
    for _ in range(x.size if nonzero > m else 0):
        inside = p < 1
        c = (m - x.size + inside.sum()) / p[inside].sum()
        if c <= 1:
            break
        p[inside] = np.minimum(c * p[inside], 1)
    if nonzero <= m:
        p = (size > 0).astype(float)
    found = probabilities(Sparse(density=density), x)
    np.testing.assert_allclose(found, p, rtol=1e-6)
    assert found.sum() == pytest.approx(min(m, nonzero), rel=1e-6)


@pytest.mark.parametrize("codec", [Sparse(), Sparse(density=0.01), Sparse(density=0.8), Sparse(variance=0.3)])
@pytest.mark.parametrize("x", VECTORS[:9], ids=len)
def test_the_variance_bound_holds(codec: Sparse, x: np.ndarray) -> None:
    gamma = codec.variance_bound(Spec(x.size))
    assert gamma is not None
    assert second_moment(codec, x) <= (1 + gamma) * squares(x) * (1 + 1e-12)


def test_the_variance_bound_is_reached() -> None:
    x, spec = np.ones(100, np.float32), Spec(100)
    gamma = Sparse(density=0.25).variance_bound(spec)
    assert gamma == 3
    assert second_moment(Sparse(density=0.25), x) == pytest.approx(4 * squares(x))
    assert Sparse(variance=0.7).variance_bound(spec) == 0.7
    assert Sparse(density=0.001).variance_bound(spec) == 99  # one number at least
    assert Sparse().variance_bound(Spec(0)) == 0


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30).filter(any),
    st.floats(0.01, 1),
    st.floats(0.01, 50),
)
def test_bounds_of_any_vector(values: list[float], density: float, variance: float) -> None:
    x = np.array(values, np.float32)
    for codec in (Sparse(density=density), Sparse(variance=variance)):
        gamma = codec.variance_bound(Spec(x.size))
        assert gamma is not None
        # float64: 30 additions of at most 2⁻⁵³ each
        assert second_moment(codec, x) <= (1 + gamma) * squares(x) * (1 + 1e-13)


@pytest.mark.parametrize("codec", [Sparse(density=0.2), Sparse(variance=1.0)])
def test_mean_and_variance_over_keys(codec: Sparse) -> None:
    n, spec, x = 3000, Spec(40), vector(40)
    p, g = probabilities(codec, x), x.astype(float)
    shared = float(codec.magnitude(x))
    total, error = np.zeros(40), 0.0
    for i in range(n):
        key = KEY.fold(sensor=i)
        y = codec.decode(codec.encode(x, spec, key)[0], spec, key).astype(float)
        total += y
        error += np.sum((y - g) ** 2)
    sd = np.sqrt(np.where(p < 1, np.abs(g) * (shared - np.abs(g)), 0))
    # 5 sigma of the mean of n keys; a draw's 24 bits move p by 2⁻²⁴ and the mean by M·2⁻²⁴
    assert (np.abs(total / n - g) <= 5 * sd / np.sqrt(n) + shared * 2.0**-23).all()
    assert (np.abs(total / n - g)[p == 1] <= 1e-12).all()
    # a squared error is (M−|g|)² with probability p, else g²
    spread = np.sqrt(np.sum(np.where(p < 1, p * (1 - p) * (shared**2 - 2 * shared * np.abs(g)) ** 2, 0)))
    expected = second_moment(codec, x) - squares(x)
    assert abs(error / n - expected) <= 5 * spread / np.sqrt(n) + 1e-6 * expected


@pytest.mark.parametrize("codec", [Sparse(), Sparse(density=0.7), Sparse(variance=0.5)])
@pytest.mark.parametrize("n", [1, 2, 9, 500, 4000])
def test_what_is_kept_and_how(codec: Sparse, n: int) -> None:
    x, spec = vector(n, 1), Spec(n)
    body = codec._encode_body(x, spec, KEY, {}, {})
    y = codec._decode_body(body.data, spec, KEY, {})
    assert np.array_equal(y, body.decoded())
    shared, p = codec.magnitude(x), probabilities(codec, x)
    steps = np.floor(p * 2**24)  # of the 2²⁴ values of u, as many lie at 1−p and above
    kept = (rng.uniform(KEY, n).astype(float) >= 1 - steps / 2**24) & (p > 0)
    expected = np.where(kept, np.where(np.abs(x) > shared, x, np.copysign(shared, x)), np.float32(0))
    assert np.array_equal(y, expected)
    assert np.array_equal(codec.decode(codec.encode(x, spec, KEY)[0], spec, KEY), y)


@pytest.mark.parametrize(
    "values",
    [[], [0.0], [-0.0] * 3, [5.0], [1e-45, 0.0], [0.0, -1e-45, 1e-40, 3e-39], [1e30, -1e-30], [3.4e38] * 2],
)
@pytest.mark.parametrize("variance", [None, 1e-9, 1e-300])
def test_extremes(variance: float | None, values: list[float]) -> None:
    x, spec = np.array(values, np.float32), Spec(len(values))
    codec = Sparse(density=1) if variance is None else Sparse(variance=variance)
    y = codec.decode(codec.encode(x, spec, KEY)[0], spec, KEY)
    # |g|·(M − |g|) ≤ ε‖x‖², so one of the two, here the error, is at most √ε·‖x‖; and M is rounded
    bound = (math.sqrt(variance or 0) + 2.0**-23) * math.sqrt(squares(x))
    assert np.abs(y.astype(float) - x).max(initial=0) <= (bound if variance else 0)


def test_zeros_and_small_vectors() -> None:
    for n in (1, 300, 5000):
        x, spec = np.zeros(n, np.float32), Spec(n)
        payload, _ = Sparse().encode(x, spec, KEY)
        assert payload[HEADER_SIZE:] == bytes(1 if n < 256 else 2)  # nothing is kept
        assert not Sparse().decode(payload, spec, KEY).any()
    assert Sparse().magnitude(np.float32([-7])) == 7  # one number is expected, so it is sent
    assert Sparse(variance=3.0).magnitude(np.float32([-7])) == 28
    assert Sparse().magnitude(np.float32([0, 2, 0])) == 2


def test_a_magnitude_beyond_float32_is_an_error() -> None:
    x = np.full(1000, 3e38, np.float32)
    with pytest.raises(CodecError, match=r"sparse: the shared magnitude 3e\+39 does not fit float32; scale"):
        Sparse().encode(x, Spec(1000), KEY)
    with pytest.raises(CodecError, match="does not fit float32"):
        Sparse(variance=5.0).encode(x, Spec(1000), KEY)


def test_many_payloads_are_added_as_they_decode() -> None:
    codec, spec, keys = Sparse(density=0.3), Spec(60), [KEY.fold(sensor=i) for i in range(4)]
    payloads = [codec.encode(vector(60, i), spec, key)[0] for i, key in enumerate(keys)]
    weights, expected, out = [1.0, 2.5, -3.0, 0.25], np.ones(60, np.float32), np.ones(60, np.float32)
    for payload, key, weight in zip(payloads, keys, weights, strict=True):
        expected += codec.decode(payload, spec, key) * np.float32(weight)
    assert codec.add_decoded(out, payloads, spec, keys, weights) == {}
    assert np.array_equal(out, expected)


def test_configuration() -> None:
    assert Sparse() == Sparse(density=0.1)
    for codec in (Sparse(), Sparse(variance=2.0), Sparse(density=0.5)):
        for config in (registry.config(codec), registry.resolved(codec)):
            assert config.pop("name") == "sparse"
            assert TypeAdapter(Sparse).validate_python(config) == codec
    with pytest.raises(ValueError, match=r"sparse: variance=2 and density=0.5 are both given; give one"):
        Sparse(variance=2.0, density=0.5)
    for fields in ({"density": 0}, {"density": 1.1}, {"variance": 0}, {"variance": math.inf}):
        with pytest.raises(ValidationError):
            TypeAdapter(Sparse).validate_python(fields)


def test_error_feedback_takes_its_weight_from_the_bound() -> None:
    assert ErrorFeedback(Sparse(density=0.25)).weight(Spec(100)) == 0.25
    assert ErrorFeedback(Sparse(variance=3.0)).weight(Spec(100)) == 0.25
