from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant import wire
from fedquant.codecs.data import DataSpec
from fedquant.codecs.dataq import DataQ
from fedquant.codecs.labels import labels_size
from fedquant.errors import CodecError
from fedquant.kernels import pack, rng
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS

KEY = Key(31)
QUICK = settings(max_examples=50, deadline=None, derandomize=True)


def batch(n: int, d: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, DataSpec]:
    x = (rng.uniform(KEY, n * d) * np.float32(2) - np.float32(1)) * np.float32(scale)
    return x.reshape(n, d), np.arange(n) % 7, DataSpec((d,), n, 7)


def body(codec: DataQ, x: np.ndarray, y: np.ndarray, spec: DataSpec) -> bytes:
    return wire.unframe(codec.encode(x, y, spec, KEY), codec.context(spec, KEY, NO_KNOBS))


def through(codec: DataQ, x: np.ndarray, y: np.ndarray, spec: DataSpec) -> np.ndarray:
    back, labels = codec.decode(codec.encode(x, y, spec, KEY), spec, KEY)
    assert labels.tolist() == y.tolist()
    return back


@QUICK
@given(
    st.integers(2, 2**16),
    st.sampled_from(["floor", "nearest", "stochastic"]),
    st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_errors_stay_within_one_step(m: int, rounding: str, scale: float) -> None:
    x, y, spec = batch(16, 20, scale)
    back = through(DataQ(m, rounding=rounding), x, y, spec)
    top = float(np.abs(x).max())
    step = top / (m - 1) * (0.5 if rounding == "nearest" else 1)
    slack = top * 2.0**-21  # float32 roundings
    assert np.abs(back.astype(float) - x).max() <= step + slack
    if rounding == "floor":
        assert (np.abs(back) <= np.abs(x) + np.float32(slack)).all()


@QUICK
@given(st.integers(2, 2**16), st.sampled_from(["floor", "nearest"]))
def test_coding_what_was_decoded_changes_no_level(m: int, rounding: str) -> None:
    codec = DataQ(m, rounding=rounding)
    x, y, spec = batch(16, 20)
    once = through(codec, x, y, spec)
    twice = through(codec, once, y, spec)
    # the scale itself is rounded to float32 on the way
    np.testing.assert_allclose(twice, once, rtol=2.0**-22, atol=0)


@QUICK
@given(st.integers(0, 60), st.integers(1, 300), st.integers(2, 512))
def test_payloads_are_as_short_as_promised(n: int, d: int, m: int) -> None:
    x, y, _ = batch(n, d)
    spec = DataSpec((d,), 60, 7)
    payload = DataQ(m).encode(x, y, spec, KEY)
    assert len(payload) <= n * d * math.log2(2 * m - 1) / 8 * 1.008 + labels_size(n, spec) + 32
    short = DataQ(m).encode(np.abs(x), y, spec, KEY)
    assert len(short) <= n * d * math.log2(m) / 8 * 1.008 + labels_size(n, spec) + 32


@QUICK
@given(st.integers(0, 60), st.integers(1, 300), st.integers(2, 512), st.integers(1, 9))
def test_nothing_is_ever_longer_than_fixed_length_codes(n: int, d: int, m: int, power: int) -> None:
    x, y, spec = batch(n, d)
    x, fixed = x**power, 1 + 1 + 4 + labels_size(n, spec)
    assert len(body(DataQ(m), x, y, spec)) <= fixed + pack.radix_size(n * d, 2 * m - 1)
    assert len(body(DataQ(m), np.abs(x), y, spec)) <= fixed + pack.radix_size(n * d, m)


@pytest.mark.parametrize("m", [3, 8, 16, 1000])
def test_data_without_signs_use_half_the_alphabet(m: int) -> None:
    x, y, spec = batch(32, 50)
    unsigned = np.abs(x)
    assert len(DataQ(m).encode(unsigned, y, spec, KEY)) < len(DataQ(m).encode(x, y, spec, KEY))
    signed = unsigned.copy()
    signed[0, 0] = -signed[0, 0]
    expected = np.abs(through(DataQ(m), signed, y, spec))
    assert np.array_equal(through(DataQ(m), unsigned, y, spec), expected)


def test_known_values() -> None:
    x = np.array([[-1.0, -0.4, 0.0, 0.49, 0.5, 0.9]], np.float32)
    y, spec = np.array([3]), DataSpec((6,), 1, 7)
    assert through(DataQ(3), x, y, spec).tolist() == [[-1.0, 0.0, 0.0, 0.0, 0.5, 0.5]]
    assert through(DataQ(3, rounding="nearest"), x, y, spec).tolist() == [[-1.0, -0.5, 0.0, 0.5, 0.5, 1.0]]


def test_stochastic_rounding_is_unbiased() -> None:
    n = 20000
    x = np.full((n, 1), 0.3, np.float32)
    x[0] = 1.0
    back = through(DataQ(3, rounding="stochastic"), x, np.zeros(n, int), DataSpec((1,), n, 1))
    # levels 0 and 1/2: sd at most 1/4; 5 sigma of the mean
    assert abs(back[1:].astype(float).mean() - 0.3) < 5 * 0.25 / math.sqrt(n)


def test_a_decoder_need_not_know_the_rounding() -> None:
    x, y, spec = batch(4, 5)
    payload = DataQ(8, rounding="nearest").encode(x, y, spec, KEY)
    back, _ = DataQ(8).decode(payload, spec, KEY)
    assert np.array_equal(back, through(DataQ(8, rounding="nearest"), x, y, spec))
    with pytest.raises(CodecError, match="checksum differs"):
        DataQ(9).decode(payload, spec, KEY)


def test_zeros_take_no_codes() -> None:
    _, y, spec = batch(32, 50)
    payload = DataQ().encode(np.zeros((32, 50), np.float32), y, spec, KEY)
    assert len(payload) <= 14 + labels_size(32, spec)


@pytest.mark.parametrize("m", [8, 26, 32, 50, 63, 300])
def test_the_largest_float_comes_back(m: int) -> None:
    top = np.full((1, 4), np.finfo(np.float32).max, np.float32)
    spec = DataSpec((4,), 1, 2)
    x, _ = DataQ(m).decode(DataQ(m).encode(top, np.zeros(1, int), spec, KEY), spec, KEY)
    np.testing.assert_allclose(x, top, rtol=1e-6)


def test_labels_that_are_no_classes_are_refused() -> None:
    spec = DataSpec((4,), 1, 2)
    with pytest.raises(CodecError, match="expected integers"):
        DataQ().encode(np.ones((1, 4), np.float32), np.array([0.5]), spec, KEY)
    with pytest.raises(CodecError, match="does not fit float16"):
        DataQ().encode(np.ones((1, 4), np.float32), np.array([1e9]), DataSpec((4,), 1, "float16"), KEY)


# ---- the coding of levels


def sparse(n: int, shape: tuple[int, ...], signed: bool = True) -> np.ndarray:
    x = rng.uniform(KEY.fold(stream=1), n * math.prod(shape)) * np.float32(2) - np.float32(1)
    return (x**9 if signed else np.abs(x) ** 9).reshape(n, *shape)


@pytest.mark.parametrize("scale", ["max", "l2"])
@pytest.mark.parametrize("signed", [True, False])
def test_entropy_coding_is_taken_where_it_is_shorter(scale: str, signed: bool) -> None:
    codec, spec = DataQ(8, scale=scale), DataSpec((500,), 40, 7)
    x, y = sparse(40, (500,), signed), np.arange(40) % 7
    data = body(codec, x, y, spec)
    assert data[0] & 0x0F == 1
    assert bool(data[0] & 0x10) is not signed
    assert len(data) < 0.6 * pack.radix_size(40 * 500, 15 if signed else 8)
    through(codec, x, y, spec)


@pytest.mark.parametrize(("shape", "coding"), [((4, 150), 2), ((150, 4), 3), ((600,), 4), ((20, 30), 4)])
def test_channels_that_differ_get_tables_of_their_own(shape: tuple[int, ...], coding: int) -> None:
    n, spec, y = 128, DataSpec(shape, 128, 7), np.arange(128) % 7
    x, _, _ = batch(n, 600)
    x = x.reshape(n, *shape)
    loud = rng.uniform(KEY.fold(stream=2), shape[0] if coding == 2 else shape[-1] if coding == 3 else 600)
    gain = np.where(loud > np.median(loud), np.float32(1), np.float32(0.2))
    x = x * (gain[:, np.newaxis] if coding == 2 else gain if coding == 3 else gain.reshape(shape))
    data = body(DataQ(8), x, y, spec)
    assert data[0] & 0x0F == coding
    assert len(data) < 0.97 * len(body(DataQ(8), x.reshape(-1, 1)[: 128 * 600], np.zeros(0, int), flat(x)))
    back = through(DataQ(8), x, y, spec)
    assert np.abs(back - x).max() <= np.abs(x).max() / 7 * 1.00001


def flat(x: np.ndarray) -> DataSpec:
    """Single numbers as samples: one table for all."""
    return DataSpec((1,), x.size, 0)


@QUICK
@given(
    st.integers(0, 40),
    st.sampled_from([(), (1,), (7,), (2, 3), (5, 1, 4)]),
    st.sampled_from([2, 3, 8, 300, 65536]),
    st.sampled_from(["max", "l2"]),
    st.sampled_from(["floor", "nearest", "stochastic"]),
    st.sampled_from([1e-30, 1.0, 1e30]),
    st.booleans(),
)
def test_every_configuration_round_trips(
    n: int, shape: tuple[int, ...], m: int, scale: str, rounding: str, size: float, signed: bool
) -> None:
    codec, spec = DataQ(m, scale, rounding), DataSpec(shape, 40, 7)
    x = sparse(n, shape, signed) * np.float32(size)
    x[::3] = 0
    back = through(codec, x, np.arange(n) % 7, spec)
    tops = np.abs(x).max(initial=0).astype(float)
    if scale == "l2":
        tops = np.sqrt((x.astype(float) ** 2).reshape(n, math.prod(shape)).sum(axis=1))
        tops = tops.reshape(n, *[1] * len(shape))
    assert (np.abs(back.astype(float) - x) <= tops * (1 / (m - 1) + 2.0**-21)).all()
    assert (np.sign(back) * np.sign(x) >= 0).all()


# ---- decoding


def test_levels_come_back_with_their_scales() -> None:
    x, y, spec = batch(12, 30)
    for codec in (DataQ(5), DataQ(9, "l2"), DataQ(9, "l2", "stochastic")):
        payload = codec.encode(x, y, spec, KEY)
        held, labels = codec.decode_levels(payload, spec, KEY)
        assert labels.tolist() == y.tolist()
        assert np.array_equal(held.samples(), codec.decode(payload, spec, KEY)[0])
        assert np.abs(held.levels).max() <= codec.m - 1
        if codec.rounding == "floor":
            errors = np.linalg.norm(held.samples().astype(float) - x, axis=1)
            assert errors.mean() <= held.error_bound
    norms = np.linalg.norm(x.astype(float), axis=1)
    assert (held.scales >= norms).all()
    assert (held.scales <= norms * (1 + 2.0**-22)).all()


@pytest.mark.parametrize(
    ("codec", "at", "value", "message"),
    [
        (DataQ(8), 0, 5, "mode 0x05 is not known"),
        (DataQ(8), 0, 0x20, "mode 0x20 is not known"),
        (DataQ(8, "l2"), 0, 0x60, "mode 0x60 is not known"),
        (DataQ(8, "l2"), 0, 0x80, "mode 0x80 is not known"),
        (DataQ(8, "l2", code="simplex"), 0, 1, "mode 0x01 is not known"),
        (DataQ(8), 0, 2, "coding 2 is not one of samples of shape"),
        (DataQ(8), 1, 10, "above 9"),
        (DataQ(8, "l2"), 1, 8, "bytes"),
        (DataQ(8), 5, 0xFF, "not finite"),
    ],
)
def test_bad_bodies_are_refused(codec: DataQ, at: int, value: int, message: str) -> None:
    x, y, spec = batch(9, 4)
    bad = bytearray(body(codec, x, y, spec))
    bad[at] = value
    if value == 0xFF:
        bad[at - 1] = 0xFF
    with pytest.raises(CodecError, match=message):
        codec.decode(wire.frame(bytes(bad), codec.context(spec, KEY, NO_KNOBS)), spec, KEY)
