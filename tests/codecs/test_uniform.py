from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter, ValidationError

from fedquant.codecs.base import Spec
from fedquant.codecs.uniform import Uniform
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE, NO_KNOBS, Knobs, frame

KEY = Key(21)
QUICK = settings(max_examples=150, deadline=None, derandomize=True)
EPS = 2.0**-52


def spec_of(n: int) -> Spec:
    return Spec(n, "float64")


def vector(n: int) -> np.ndarray:
    return rng.uniform(Key(5), n).astype(float) * 2 - 1


def range_knob(r: float) -> bytes:
    return struct.pack("<d", r)


def body_of(codec: Uniform, x: np.ndarray, knobs: Knobs = NO_KNOBS) -> bytes:
    return codec.encode(x, spec_of(x.size), KEY, knobs=knobs)[0][HEADER_SIZE:]


def through(codec: Uniform, x: np.ndarray, knobs: Knobs = NO_KNOBS) -> np.ndarray:
    spec = spec_of(x.size)
    return codec.decode(codec.encode(x, spec, KEY, knobs=knobs)[0], spec, KEY, knobs)


# ---- layout


def test_bytes_of_a_power_of_two() -> None:
    x = np.array([-2, -0.6, 0.4, 1.8, 2])
    # cells of width 1: codes 0 1 2 3 3; byte 0 holds 0, 2, 3 (numbers 0, 2, 4), byte 1 holds 1, 3
    codes = bytes([0b11_10_00, 0b11_01])
    assert body_of(Uniform(levels=4, range=2.0), x) == codes
    assert body_of(Uniform(bits=2), x) == range_knob(2) + codes
    assert through(Uniform(bits=2), x).tolist() == [-1.5, -0.5, 0.5, 1.5, 1.5]


def test_bytes_of_two_runs() -> None:
    # R = 1.5, n = 2: 3·2 ≤ 2³ < 3·3, so the first number has 3 levels and the second 2
    codec = Uniform(bits=1.5, range=3.0)
    assert codec.runs(spec_of(2)) == ((1, 3), (1, 2))
    x = np.array([2.5, -0.5])
    assert body_of(codec, x) == bytes([2, 0])
    assert through(codec, x).tolist() == [2, -1.5]


@pytest.mark.parametrize(("bits", "levels"), [(1, 2), (2, 4), (4, 16), (8, 256)])
def test_whole_bits_are_planar(bits: int, levels: int) -> None:
    for n in (0, 1, 9, 3000):
        assert len(body_of(Uniform(bits=bits, range=1.0), vector(n))) == -(-n * bits // 8)
        assert body_of(Uniform(bits=bits), vector(n)) == body_of(Uniform(levels=levels), vector(n))


@pytest.mark.parametrize("bits", [1.1, 1.5, math.log2(3), 2.32, 3, 5, 7.9, 12.25, 30.5, 31])
@pytest.mark.parametrize("n", [1, 2, 33, 1000])
def test_sizes_keep_to_the_rate(bits: float, n: int) -> None:
    size = len(body_of(Uniform(bits=bits, range=1.0), vector(n)))
    # mixed radix wastes at most 1 % and a byte a run
    assert size <= n * bits / 8 * 1.01 + 2


def test_zeros_take_the_range_alone() -> None:
    for n in (0, 1, 100):
        assert body_of(Uniform(), np.zeros(n)) == bytes(8)
        assert body_of(Uniform(), np.zeros(n), {"range": range_knob(0)}) == b""
        assert through(Uniform(), np.zeros(n)).tolist() == [0] * n
        assert through(Uniform(), np.zeros(n), {"range": range_knob(0)}).tolist() == [0] * n


# ---- covering ratios


@pytest.mark.parametrize(
    ("codec", "n", "q"),
    [
        (Uniform(levels=4), 16, 1.0),
        (Uniform(bits=3), 16, 0.5),
        (Uniform(bits=1.5), 2, math.sqrt(1 / 9 + 1 / 4)),
        (Uniform(), 0, 0.0),
    ],
)
def test_covering_ratios(codec: Uniform, n: int, q: float) -> None:
    assert codec.covering_ratio(spec_of(n)) == pytest.approx(q, rel=1e-15)
    assert codec.covering_ratio(spec_of(n), {"levels": 5}) == pytest.approx(math.sqrt(n) / 5, rel=1e-15)


def test_the_covering_ratio_is_reached_at_a_corner_and_never_passed() -> None:
    for codec in (Uniform(bits=2.3, range=0.7), Uniform(levels=7, range=0.7)):
        q = codec.covering_ratio(spec_of(50))
        for x in (np.full(50, 0.7), np.full(50, -0.7), vector(50) * 0.7):
            error = float(np.linalg.norm(through(codec, x) - x))
            assert error <= q * 0.7 * (1 + 1e-14)
            if x[0] == 0.7:
                assert error == pytest.approx(q * 0.7, rel=1e-14)


# ---- numbers


@QUICK
@given(
    x=arrays(np.float64, st.integers(0, 40), elements=st.floats(-1, 1)),
    scale=st.sampled_from([1.0, 0.3, 1e-300, 1e308, 3e-9]),
    room=st.sampled_from([None, 1.0, 1.5]),
    levels=st.none() | st.integers(2, 300) | st.sampled_from([65536, 10**6, 2**31 - 1, 2**31]),
    bits=st.floats(1, 31),
)
def test_errors_stay_within_a_cell(
    x: np.ndarray, scale: float, room: float | None, levels: int | None, bits: float
) -> None:
    x = x * scale
    r = float(np.abs(x).max(initial=0)) if room is None else scale * room
    codec = Uniform(bits=bits, levels=levels, range=None if room is None else r)
    y = through(codec, x)
    m = np.repeat(
        [float(k) for _, k in codec.runs(spec_of(x.size))], [n for n, _ in codec.runs(spec_of(x.size))]
    )
    # and the least denormal a rounding
    assert (np.abs(y - x) <= r / m + 4 * EPS * r + 1e-323).all()
    assert (np.abs(y) <= r).all()
    body = body_of(codec, x)
    if r > 0:  # midpoints come back as they are
        again = Uniform(bits=bits, levels=levels, range=r)
        assert body_of(again, np.clip(y, -r, r)) == body[8 if room is None else 0 :]


def test_the_ends_of_the_range_are_inside() -> None:
    for r in (1.0, 0.1, 1 / 3, 5e-324, 1.7e308):
        y = through(Uniform(levels=10, range=r), np.array([r, -r]))
        assert y.tolist() == pytest.approx([0.9 * r, -0.9 * r], rel=1e-15, abs=5e-324)


@pytest.mark.parametrize("knobs", [{}, {"range": range_knob(1.0)}])
def test_a_number_outside_the_range_is_an_error(knobs: Knobs) -> None:
    codec = Uniform(range=None if knobs else 1.0)
    for bad in (math.nextafter(1.0, 2), -2.5, 1e300):
        with pytest.raises(CodecError) as error:
            body_of(codec, np.array([0.5, -1, bad, bad]), knobs)
        assert str(error.value) == (f"uniform: x[2] = {bad} is outside [−r, r], r = 1.0; give a larger range")
    with pytest.raises(CodecError, match="is outside"):
        body_of(Uniform(), np.array([0, 5e-324]), {"range": range_knob(0)})


# ---- configuration


@pytest.mark.parametrize(
    ("knobs", "same"),
    [
        ({"levels": 5}, Uniform(levels=5)),
        ({"range": range_knob(1.5)}, Uniform(range=1.5)),
        ({"range": range_knob(1.5), "levels": 2}, Uniform(levels=2, range=1.5)),
    ],
)
def test_knobs_override_fields(knobs: Knobs, same: Uniform) -> None:
    x = vector(100)
    base = Uniform(levels=None if "levels" not in knobs else 9, range=None if "range" not in knobs else 20.0)
    assert body_of(base, x, knobs) == body_of(same, x)
    assert np.array_equal(through(base, x, knobs), through(same, x))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"levels": 1}, "levels=1 is not an integer in"),
        ({"levels": 2**31 + 1}, "is not an integer in"),
        ({"levels": b"4"}, "is not an integer in"),
        ({"range": 3}, "knob range=3 is not the 8 bytes"),
        ({"range": b"1234567"}, "is not the 8 bytes"),
        ({"range": range_knob(-1)}, "range -1.0 is negative or not finite"),
        ({"range": range_knob(math.inf)}, "range inf is negative or not finite"),
        ({"range": range_knob(math.nan)}, "range nan is negative or not finite"),
        ({"bits": 3}, "unknown knobs"),
    ],
)
def test_bad_knobs_are_refused(knobs: Knobs, message: str) -> None:
    with pytest.raises(CodecError, match=f"uniform: .*{message}"):
        body_of(Uniform(), vector(3), knobs)
    with pytest.raises(CodecError, match=f"uniform: .*{message}"):
        Uniform().decode(frame(b"", Uniform().context(spec_of(0), KEY, knobs)), spec_of(0), KEY, knobs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 0.9},
        {"bits": 31.5},
        {"bits": math.nan},
        {"levels": 1},
        {"levels": 2**31 + 1},
        {"range": 0},
        {"range": math.inf},
        {"range": math.nan},
    ],
)
def test_bad_fields_are_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValidationError, match=name):
        TypeAdapter(Uniform).validate_python(wrong)


def test_whole_and_float_fields_are_one_configuration() -> None:
    from_yaml = TypeAdapter(Uniform).validate_python({"bits": 3, "range": 2})
    assert from_yaml.identity == Uniform(bits=3, range=2).identity == Uniform(bits=3.0, range=2.0).identity
    assert Uniform(bits=4).identity == Uniform().identity


def test_float32_is_coded_as_the_float64_it_is() -> None:
    x = np.array([0.3, -1.5, 0.02], np.float32)
    single, double = (Uniform().encode(x.astype(d), Spec(3, d), KEY)[0][5:] for d in ("float32", "float64"))
    assert single == double
    back = Uniform().decode(Uniform().encode(x, Spec(3), KEY)[0], Spec(3), KEY)
    assert back.dtype == np.float32
    assert np.array_equal(back, (1.5 * np.array([3, -15, 1]) / 16).astype(np.float32))


@pytest.mark.parametrize(
    ("codec", "body", "message"),
    [
        (Uniform(bits=2), "00000000000000", "uniform: body of 7 bytes, its range alone takes 8"),
        (Uniform(bits=2), "000000000000f03f", "uniform: codes of 0 bytes, expected 1"),
        (Uniform(bits=2), "000000000000f03f 40", "padding is not zero"),
        (Uniform(bits=2), "000000000000f03f 00 00", "uniform: codes of 2 bytes, expected 1"),
        (Uniform(bits=2), "0000000000000000 00", "uniform: body of 9 bytes, expected 8"),
        (Uniform(bits=2), "000000000000f0bf 00", "range -1.0 is negative"),
        (Uniform(bits=2), "000000000000f07f 00", "range inf is negative or not finite"),
        (Uniform(bits=2), "000000000000f87f 00", "range nan is negative or not finite"),
        (Uniform(levels=3, range=1.0), "1b", "radix codes: a group is not below"),
    ],
)
def test_bad_bodies_are_refused(codec: Uniform, body: str, message: str) -> None:
    payload = frame(bytes.fromhex(body), codec.context(spec_of(3), KEY, NO_KNOBS))
    with pytest.raises(CodecError, match=message):
        codec.decode(payload, spec_of(3), KEY)


@QUICK
@given(
    body=st.binary(max_size=24),
    bits=st.sampled_from([1.0, 1.5, 2.0, 2.7, 8.0, 31.0]),
    known=st.sampled_from([None, 2.0]),
)
def test_decoders_are_total(body: bytes, bits: float, known: float | None) -> None:
    codec, spec = Uniform(bits=bits, range=known), spec_of(5)
    try:
        y = codec.decode(frame(body, codec.context(spec, KEY, NO_KNOBS)), spec, KEY)
    except CodecError:
        return
    assert y.shape == (5,)
    assert np.isfinite(y).all()
