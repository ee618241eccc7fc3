from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedquant import kernels
from fedquant.codecs import ecq_search as search
from fedquant.codecs.base import Spec
from fedquant.codecs.ecq import ECQ
from fedquant.codecs.error_feedback import ErrorFeedback
from fedquant.codecs.topk import TopK
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.kernels.reference import steps as reference
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE
from tests.draws import heavy, normal

KEY = Key(31)
QUICK = settings(max_examples=40, deadline=None, derandomize=True)
TOP = float(np.finfo(np.float32).max)


def energy(x: np.ndarray) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def through(codec: ECQ, x: np.ndarray, key: Key = KEY, spec: Spec | None = None) -> tuple[int, np.ndarray]:
    """(bytes of the payload, what is decoded)."""
    spec = spec or Spec(x.size)
    payload, _ = codec.encode(x, spec, key)
    return len(payload), codec.decode(payload, spec, key)


def nmse(x: np.ndarray, y: np.ndarray) -> float:
    return energy(y.astype(np.float64) - x) / energy(x)


VECTORS = {
    "one": np.float32([-3.5]),
    "equal": np.full(1000, 0.37, np.float32),
    "few": np.float32([1, -2, 0.5]),
    "normal": normal(3000),
    "heavy": heavy(3000),
    "largest": np.float32([TOP, -TOP, TOP / 3] * 50),
    "denormal": np.float32([1e-45, -3e-44, 1e-40] * 50),
    "outlier": np.append(normal(5000, scale=1e-10), np.float32(1e30)),
    "utmost outlier": np.append(normal(5000), np.float32(3e38)),
    "zeros mostly": np.where(np.arange(9000) % 100, np.float32(0), normal(9000)),
    "sampled": normal(300_000) * np.repeat(np.float32([1, 0.01, 3]), 100_000),
}
every_vector = pytest.mark.parametrize("name", VECTORS)


# ---- targets


@every_vector
@pytest.mark.parametrize("target", [0.9, 0.5, 0.01, 1e-4, 1e-6, 1e-10])
def test_the_error_is_never_above_its_target(name: str, target: float) -> None:
    x = VECTORS[name]
    if target < 1e-6 and name == "denormal":
        return  # x̂ itself is too coarse there
    _, y = through(ECQ(nmse=target), x)
    assert nmse(x, y) <= target


@pytest.mark.parametrize("target", [0.5, 0.01, 1e-5])
@pytest.mark.parametrize("name", ["normal", "sampled"])
def test_the_error_is_close_to_its_target(name: str, target: float) -> None:
    _, y = through(ECQ(nmse=target), VECTORS[name])
    assert nmse(VECTORS[name], y) > 0.98 * target


@every_vector
@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("size", [25, 51, 111, 1000, 40_000])
def test_bytes_are_never_exceeded(name: str, dither: bool, size: int) -> None:
    x, codec = VECTORS[name], ECQ(bytes=size, dither=dither)
    if dither and name == "largest" and size < 51:  # steps beyond float32 would be needed
        with pytest.raises(CodecError, match=r"ecq: 150 numbers of up to 3\.40282e\+38 do not fit a body of"):
            through(codec, x)
        return
    used, y = through(codec, x)
    assert used <= size
    if not dither:
        assert nmse(x, y) < 1


@QUICK
@given(st.integers(0, 3000), st.integers(6, 400), st.booleans(), st.integers(0, 3), st.integers(0, 2))
@example(1, 6, False, 0, 0)
@example(0, 6, True, 0, 0)
def test_any_size_and_any_bytes(n: int, size: int, dither: bool, sensor: int, part: int) -> None:
    x, key = heavy(n, sensor), KEY.fold(part=part)
    codec = ECQ(bytes=size, dither=dither)
    if part and n and size < 8:
        with pytest.raises(CodecError, match=f"ecq: bytes={size}, but the header takes 7"):
            through(codec, x, key)
        return
    used, y = through(codec, x, key)
    assert used <= size
    assert dither or energy(y.astype(np.float64) - x) <= energy(x)


@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("name", ["normal", "heavy", "sampled"])
def test_more_bytes_mean_less_error(name: str, dither: bool) -> None:
    x = VECTORS[name]
    errors = [nmse(x, through(ECQ(bytes=b, dither=dither), x)[1]) for b in (30, 100, 300, 1000, 3000)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("bits", [0.5, 2.0, 4.25])
def test_bits_per_element(bits: float, dither: bool) -> None:
    x = VECTORS["sampled"]
    spec = Spec(x.size, segments=(100_000, 200_000, 300_000))
    used, _ = through(ECQ(bits_per_element=bits, dither=dither), x, spec=spec)
    most = HEADER_SIZE + 1 + x.size * bits / 8
    assert 0.99 * most < used <= most


def test_equal_numbers_are_sent_as_far_as_they_fit() -> None:
    x = np.where(rng.uniform(KEY, 1000) < 0.5, np.float32(-2), np.float32(2))
    used, y = through(ECQ(bytes=60), x)
    assert 58 <= used <= 60
    assert np.count_nonzero(y) > 50
    assert set(y[y != 0] / x[y != 0]) == {1.0}


def test_a_tiny_budget_beats_the_largest_entries_as_floats() -> None:
    x = heavy(50_000)
    for size in (20, 51, 111, 500):
        kept = max(k for k in range(1, size) if through(TopK(k=k, values="float16"), x)[0] <= size)
        assert nmse(x, through(ECQ(bytes=size), x)[1]) < nmse(x, through(TopK(k=kept), x)[1])


@pytest.mark.parametrize(
    ("knobs", "same"),
    [
        ({"bytes": 100}, ECQ(bytes=100)),
        ({"nmse_ppb": 10**8}, ECQ(nmse=0.1)),
        ({"nmse_ppb": 1000}, ECQ(nmse=1e-6)),
    ],
)
@pytest.mark.parametrize("base", [ECQ(), ECQ(bytes=50), ECQ(bits_per_element=7)])
def test_knobs_override_the_target(base: ECQ, knobs: dict[str, int], same: ECQ) -> None:
    x, spec = normal(700), Spec(700)
    payload, _ = base.encode(x, spec, KEY, knobs=knobs)
    expected, _ = same.encode(x, spec, KEY)
    assert payload[HEADER_SIZE:] == expected[HEADER_SIZE:]
    assert np.array_equal(base.decode(payload, spec, KEY, knobs), same.decode(expected, spec, KEY))


@pytest.mark.parametrize(
    ("knobs", "text"),
    [
        ({"bytes": 0}, "knob bytes=0 is not a positive integer"),
        ({"bytes": b"1"}, "knob bytes=b'1' is not a positive integer"),
        ({"bytes": 5}, "bytes=5, but the header takes 5 and the shortest body 1"),
        ({"nmse_ppb": -3}, "knob nmse_ppb=-3 is not a positive integer"),
        ({"nmse_ppb": 10**9}, r"knob nmse_ppb=1e\+09 is not below 10\*\*9"),
        ({"nmse_ppb": 1, "bytes": 9}, r"knobs \['bytes', 'nmse_ppb'\] are given; give one"),
    ],
)
def test_bad_knobs_are_refused(knobs: dict[str, int | bytes], text: str) -> None:
    with pytest.raises(CodecError, match=f"^ecq: {text}"):
        ECQ().encode(normal(9), Spec(9), KEY, knobs=knobs)


def test_configurations() -> None:
    assert ECQ() == ECQ(nmse=0.01)
    with pytest.raises(ValueError, match=r"ecq: nmse=0\.1 and bytes=9 are given; give one"):
        ECQ(nmse=0.1, bytes=9)
    with pytest.raises(ValueError, match="ecq: nmse=2 without dither is met by sending nothing"):
        ECQ(nmse=2)
    with pytest.raises(CodecError, match=r"ecq: nmse=1e-14 takes steps finer than max \|x\|/4194304"):
        through(ECQ(nmse=1e-14), normal(50))
    with pytest.raises(CodecError, match=r"ecq: nmse=1e-15 takes steps finer than max \|x\|/4194304"):
        through(ECQ(nmse=1e-15, dither=True), normal(50))


def test_the_target_is_the_encoders_alone() -> None:
    x, spec = normal(300), Spec(300)
    payload, _ = ECQ(bytes=60).encode(x, spec, KEY)
    assert np.array_equal(ECQ().decode(payload, spec, KEY), ECQ(bytes=60).decode(payload, spec, KEY))
    with pytest.raises(CodecError, match="checksum differs"):
        ECQ(dither=True).decode(payload, spec, KEY)


# ---- what it costs, and what it is worth


def entropy_bits(q: np.ndarray) -> float:
    p = np.unique(q, return_counts=True)[1] / q.size
    return float(-(p * np.log2(p)).sum())


def test_the_rate_is_close_to_the_entropy_of_rounding_to_the_middle() -> None:
    x = VECTORS["sampled"]
    spec = Spec(x.size, segments=(100_000, 200_000, 300_000))
    used, y = through(ECQ(nmse=0.01), x, spec=spec)
    plain = reference.from_steps(q := reference.to_steps(x, 0.78), 0.78)
    assert nmse(x, plain) >= nmse(x, y)
    rate = sum(entropy_bits(part) for part in np.split(q, 3)) / 3
    assert 8 * used / x.size < 1.01 * rate


def test_segments_have_tables_of_their_own() -> None:
    x = VECTORS["sampled"]
    apart, _ = through(ECQ(nmse=0.01), x, spec=Spec(x.size, segments=(100_000, 200_000, 300_000)))
    assert apart < 0.85 * through(ECQ(nmse=0.01), x)[0]


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_centroids_beat_midpoints(width: float) -> None:
    x, step = normal(20_000), np.float32(width)
    q = reference.to_steps(x, step)
    rich, lean = search.fits(reference.moments(x, q, step), step)
    assert rich.centroids is not None
    assert (rich.centroids[:2] < 0).all()  # a falling density has its mass towards 0
    middle, central = (reference.from_steps(q, step, c) for c in (reference.MIDDLE, rich.centroids))
    assert nmse(x, central) < nmse(x, middle)
    assert energy(central - x) == pytest.approx(rich.error, rel=1e-5)
    refitted = reference.from_steps(q, lean.step)
    assert energy(refitted - x) == pytest.approx(lean.error, rel=1e-5)
    assert rich.error < lean.error <= energy(middle - x)
    assert lean.step.view(np.int32) & 0xFFFF == 0


# ---- error feedback


@pytest.mark.parametrize("inner", [ECQ(nmse=0.5), ECQ(bytes=60), ECQ(nmse=0.5, dither=True)])
def test_error_feedback_sends_everything_in_the_end(inner: ECQ) -> None:
    codec, spec, x = ErrorFeedback(inner), Spec(500), heavy(500)
    state, total, rounds = codec.init(spec), np.zeros(500), 60
    for t in range(rounds):
        payload, state = codec.encode(x, spec, KEY.fold(round=t), state)
        total += codec.decode(payload, spec, KEY.fold(round=t))
    lost = energy(total / rounds - x) / energy(x)
    assert lost < nmse(x, through(inner, x)[1]) / 20  # the residual stays bounded: its share falls as 1/t²


# ---- the same bytes anywhere


@pytest.mark.parametrize("codec", [ECQ(), ECQ(bytes=50_000), ECQ(nmse=0.1, dither=True)])
def test_threads_change_no_byte(codec: ECQ) -> None:
    before = kernels.get_threads()
    x = np.tile(VECTORS["sampled"], 4)
    payloads = []
    try:
        for threads in (1, before):
            kernels.set_threads(threads)
            payloads.append(codec.encode(x, Spec(x.size), KEY)[0])
    finally:
        kernels.set_threads(before)
    assert payloads[0] == payloads[1]


@pytest.mark.parametrize("name", ["normal", "heavy", "zeros mostly", "denormal"])
@pytest.mark.parametrize("codec", [ECQ(), ECQ(bytes=100), ECQ(dither=True), ECQ(bytes=100, dither=True)])
def test_numpy_kernels_write_the_same_bytes(name: str, codec: ECQ, monkeypatch: pytest.MonkeyPatch) -> None:
    x, spec = VECTORS[name], Spec(VECTORS[name].size)
    payload, _ = codec.encode(x, spec, KEY)
    monkeypatch.setattr("fedquant.codecs.ecq.steps", reference)
    monkeypatch.setattr("fedquant.codecs.ecq_search.steps", reference)
    assert codec.encode(x, spec, KEY)[0] == payload
