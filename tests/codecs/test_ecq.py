from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedquant import kernels, wire
from fedquant.codecs import ecq_search as search
from fedquant.codecs import entropy
from fedquant.codecs.base import Spec
from fedquant.codecs.ecq import CENTROIDS, DENSE, ECQ, SEGMENTS, SHORT, SIGNS, SPARSE, SUBTRACTED
from fedquant.codecs.error_feedback import ErrorFeedback
from fedquant.codecs.indices import encode_indices
from fedquant.codecs.topk import TopK
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.kernels.reference import steps as reference
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE

KEY = Key(31)
QUICK = settings(max_examples=40, deadline=None, derandomize=True)
TOP = float(np.finfo(np.float32).max)


def normal(n: int, sensor: int = 0, scale: float = 1.0) -> np.ndarray:
    """Close to Gaussian: sums of twelve uniforms."""
    draws = rng.uniform(Key(6, sensor=sensor), 12 * n).reshape(12, n)
    return ((draws.sum(axis=0, dtype=np.float64) - 6) * scale).astype(np.float32)


def heavy(n: int, sensor: int = 0) -> np.ndarray:
    """A few numbers are far larger than most."""
    return normal(n, sensor) ** 3 * np.exp2(normal(n, sensor + 1))


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


# ---- without bias


@pytest.mark.parametrize("target", [0.001, 0.1, 3.0])
def test_the_mean_over_keys_is_the_vector(target: float) -> None:
    codec, x, n = ECQ(nmse=target, dither=True), normal(40), 1000
    decoded = np.stack([through(codec, x, KEY.fold(sensor=i))[1] for i in range(n)]).astype(np.float64)
    deviation = np.sqrt(target * energy(x) / x.size)  # of a number, in the mean over numbers
    # 5 sigma of the mean of n payloads, for the number whose sigma is largest: √12/2 times the mean's at most
    assert np.abs(decoded.mean(axis=0) - x).max() < 5 * np.sqrt(3) * deviation / np.sqrt(n)
    errors = np.square(decoded - x).sum(axis=1) / energy(x)
    bound = codec.variance_bound(Spec(x.size))
    assert bound == pytest.approx(target, rel=1e-4)
    # the mean of n errors, each with a standard deviation of `spread`: 5 sigma
    spread = 5 * errors.std() / np.sqrt(n)
    assert 0.97 * target - spread < errors.mean() < target + spread  # steps of two bytes are up to .8 % finer


def test_the_error_is_uniform_and_knows_nothing_of_x() -> None:
    x = normal(50_000)
    _, y = through(ECQ(nmse=0.05, dither=True), x)
    step = float(np.sqrt(12 * 0.05 * energy(x) / x.size))
    error = y.astype(np.float64) - x
    assert np.abs(error).max() <= step / 2 * (1 + 2.0**-20)
    # the variance of n uniform numbers has a standard deviation of step²/12·√(4/5n): 5 sigma
    assert error.var() == pytest.approx(step**2 / 12, rel=5 * np.sqrt(0.8 / x.size))
    assert abs(np.corrcoef(error, x)[0, 1]) < 5 / np.sqrt(x.size)


def test_few_bytes_without_bias_send_few_numbers_and_no_noise() -> None:
    x = heavy(20_000)
    used, y = through(ECQ(bytes=100, dither=True), x)
    assert used <= 100
    assert len(np.unique(np.abs(y))) == 2
    assert np.count_nonzero(y) < 80


def test_variance_bounds() -> None:
    spec = Spec(100)
    assert ECQ().variance_bound(spec) is None
    assert ECQ(bytes=100, dither=True).variance_bound(spec) is None
    assert ECQ(dither=True).variance_bound(spec) == pytest.approx(0.01, rel=1e-5)
    assert ECQ(dither=True).variance_bound(spec, {"nmse_ppb": 10**10}) == pytest.approx(10, rel=1e-5)
    assert ECQ(dither=True).variance_bound(spec, {"bytes": 100}) is None


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


# ---- bytes


def framed(body: bytes, n: int, codec: ECQ, spec: Spec | None = None) -> np.ndarray:
    spec = spec or Spec(n)
    return codec.decode(wire.frame(body, codec.context(spec, KEY, {})), spec, KEY)


@pytest.mark.parametrize(
    ("codec", "body"),
    [
        (ECQ(nmse=0.5), "07 8040 01 07 00"),  # ±4.0 at one place: the 8th; positive
        (ECQ(bytes=12), "07 4040 02 16 01"),  # ±3.0 at two places: set 22 of C(8, 2); the first is negative
        (ECQ(nmse=0.4, dither=True), "17 6940 05 20 09"),  # steps of 3.64 ≤ √(12·.4·22.16/8), five ±1
    ],
)
def test_golden_bytes(codec: ECQ, body: str) -> None:
    x, spec = np.float32([0.1, -2, 0.7, 0, 0.3, -0.6, 1.1, 4]), Spec(8)
    assert codec.encode(x, spec, KEY)[0][HEADER_SIZE:] == bytes.fromhex(body)
    assert codec.encode(np.zeros(8, np.float32), spec, KEY)[0][HEADER_SIZE:] == b"\0"
    assert len(codec.encode(np.zeros(0, np.float32), Spec(0), KEY)[0]) == HEADER_SIZE


def test_the_layout_of_each_form() -> None:
    step, half = np.float32(1.5).tobytes(), np.float32(1.5).tobytes()[2:]
    q = np.array([0, 1, -2, 5] * 100, np.int32)
    dense = bytes([DENSE | CENTROIDS]) + step + struct.pack("3b", -64, 32, 0) + entropy.pack_integers(q)
    expected = np.tile(np.float32([0, 1.125, -3.1875, 7.5]), 100)
    assert np.array_equal(framed(dense, 400, ECQ()), expected)
    at = np.array([3, 77, 399])
    sparse = bytes([SPARSE | SHORT]) + half + b"\3" + encode_indices(at, 400)
    y = framed(sparse + entropy.pack_integers(np.array([0, -1, 4])), 400, ECQ())
    assert y[at].tolist() == [1.5, -1.5, 7.5]
    assert np.count_nonzero(y) == 3
    signs = bytes([SIGNS | SHORT]) + half + b"\3" + encode_indices(at, 400) + b"\2"
    assert framed(signs, 400, ECQ())[at].tolist() == [1.5, -1.5, 1.5]
    dithered = bytes([DENSE | SUBTRACTED | SHORT]) + half + entropy.pack_integers(q)
    expected = (q.astype(np.float32) + (np.float32(0.5) - rng.uniform(KEY, 400))) * np.float32(1.5)
    assert np.array_equal(framed(dithered, 400, ECQ(dither=True)), expected)
    plain = bytes([DENSE | SHORT]) + half + entropy.pack_integers(q)
    assert np.array_equal(framed(plain, 400, ECQ(dither=True)), q * np.float32(1.5))


def test_segments_in_use_shorten_indices() -> None:
    x, spec = np.zeros(10_000, np.float32), Spec(10_000, segments=(4000, 4100, 9000, 10_000))
    x[[4003, 4050, 9999]] = 2, -2, 2
    payload, _ = ECQ().encode(x, spec, KEY)
    where = encode_indices(np.array([3, 50, 1099]), 1100)
    expected = bytes([SIGNS | SHORT | SEGMENTS, 0, 0x40, 0b1010, 3]) + where + b"\2"
    assert payload[HEADER_SIZE:] == expected
    assert np.array_equal(ECQ().decode(payload, spec, KEY), x)
    assert len(ECQ().encode(x, Spec(10_000), KEY)[0]) > len(payload)
    no_segment = bytes([SPARSE | SHORT | SEGMENTS, 0, 0x40, 0, 0])
    assert not framed(no_segment, 10_000, ECQ(), spec).any()
    for bad in (expected[:3], expected[:4], expected[:3] + b"\x1a" + expected[4:], no_segment[:4] + b"\1"):
        with pytest.raises(CodecError):
            framed(bad, 10_000, ECQ(), spec)


HALF = np.float32(1.5).tobytes()[2:]
BAD = {
    "nothing": b"",
    "zeros and more": b"\0\0",
    "flags of zeros": b"\4",
    "unknown flag": b"\x41" + HALF * 2,
    "all q of some segments": bytes([DENSE | SHORT | SEGMENTS]) + HALF + entropy.pack_integers(np.arange(9)),
    "no step": bytes([DENSE | SHORT]),
    "half a step": bytes([DENSE]) + HALF,
    "no centroids": bytes([DENSE | SHORT | CENTROIDS]) + HALF + b"\0\0",
    "step zero": bytes([DENSE | SHORT, 0, 0]) + entropy.pack_integers(np.zeros(9, np.int32)),
    "step negative": bytes([DENSE | SHORT, 0, 0xBF]) + entropy.pack_integers(np.zeros(9, np.int32)),
    "step infinite": bytes([DENSE | SHORT, 0x80, 0x7F]) + entropy.pack_integers(np.zeros(9, np.int32)),
    "step not a number": bytes([DENSE | SHORT, 0xC0, 0x7F]) + entropy.pack_integers(np.zeros(9, np.int32)),
    "no integers": bytes([DENSE | SHORT]) + HALF,
    "too few integers": bytes([DENSE | SHORT]) + HALF + entropy.pack_integers(np.arange(8)),
    "subtracted, unasked": bytes([DENSE | SHORT | SUBTRACTED]) + HALF + entropy.pack_integers(np.arange(9)),
    "no count": bytes([SIGNS | SHORT]) + HALF,
    "count above n": bytes([SIGNS | SHORT]) + HALF + b"\x0a",
    "count without end": bytes([SIGNS | SHORT]) + HALF + b"\xff" * 9,
    "no indices": bytes([SIGNS | SHORT]) + HALF + b"\2",
    "no signs": bytes([SIGNS | SHORT]) + HALF + b"\2" + encode_indices(np.array([1, 5]), 9),
    "signs and more": bytes([SIGNS | SHORT]) + HALF + b"\2" + encode_indices(np.array([1, 5]), 9) + b"\0\0",
    "no values": bytes([SPARSE | SHORT]) + HALF + b"\2" + encode_indices(np.array([1, 5]), 9),
    "a value too large": bytes([SPARSE | SHORT])
    + HALF
    + b"\1"
    + encode_indices(np.array([1]), 9)
    + entropy.pack_integers(np.array([2**31 - 1])),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bodies_are_refused(name: str) -> None:
    with pytest.raises(CodecError):
        framed(BAD[name], 9, ECQ())


def test_centroids_are_refused_with_dither() -> None:
    body = bytes([DENSE | SHORT | CENTROIDS]) + HALF + b"\0\0\0" + entropy.pack_integers(np.arange(9))
    assert framed(body, 9, ECQ()).shape == (9,)
    with pytest.raises(CodecError, match="ecq: first byte 0x0d is never written by ECQ"):
        framed(body, 9, ECQ(dither=True))


def test_a_body_for_nothing_is_empty() -> None:
    assert framed(b"", 0, ECQ()).shape == (0,)
    for body in (b"\0", BAD["no integers"]):
        with pytest.raises(CodecError):
            framed(body, 0, ECQ())


@QUICK
@given(st.binary(max_size=40), st.booleans(), st.sampled_from([DENSE, SPARSE, SIGNS, SPARSE | SEGMENTS]))
def test_hostile_bodies_are_refused_or_finite(noise: bytes, dither: bool, form: int) -> None:
    for body in (noise, bytes([form | SHORT, 0x80, 0x7F & (noise[0] if noise else 0)]) + noise[1:]):
        try:
            y = framed(body, 50, ECQ(dither=dither), Spec(50, segments=(8, 20, 50)))
        except CodecError:
            continue
        assert y.shape == (50,)
        assert np.isfinite(y).all()


def test_huge_integers_do_not_overflow() -> None:
    q = np.array([2**31 - 1, -(2**31) + 1, 3], np.int32)
    body = bytes([DENSE]) + np.float32(3e38).tobytes() + entropy.pack_integers(q)
    assert framed(body, 3, ECQ()).tolist() == [TOP, -TOP, TOP]


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
