from __future__ import annotations

import itertools
import math
import struct

import numpy as np
import pytest

from fedquant import registry, wire
from fedquant.codecs.ball import MAX_BITS, Ball, grid
from fedquant.codecs.base import Spec
from fedquant.differential.normal import normal
from fedquant.errors import CodecError
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE, NO_KNOBS

KEY = Key(21)


def spec(n: int) -> Spec:
    return Spec(n, "float64")


def on_sphere(n: int, count: int, seed: int = 0) -> np.ndarray:
    x = normal(Key(seed), (count, n))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def through(codec: Ball, x: np.ndarray, **knobs: int | bytes) -> np.ndarray:
    payload, _ = codec.encode(x, spec(x.size), KEY, knobs=knobs)
    return codec.decode(payload, spec(x.size), KEY, knobs)


# ---- the grid


@pytest.mark.parametrize(("n", "bits"), [(1, 3.0), (2, 2.0), (2, 4.5), (3, 2.0), (3, 3.4), (5, 2.0)])
def test_cells_are_those_that_meet_the_ball(n: int, bits: float) -> None:
    cells = grid(n, bits)
    assert cells.unit == 1
    reach = math.isqrt(cells.budget) + 2
    kept = [k for k in itertools.product(range(reach), repeat=n) if sum(v * v for v in k) <= cells.budget]
    assert [tuple(cells.cell(i)) for i in range(cells.count)] == kept  # lexicographic
    assert [cells.number(list(k)) for k in kept] == list(range(cells.count))
    # nothing left out comes nearer than 1 to the centre: its nearest corner has norm step·√Σk²
    assert cells.step * math.sqrt(cells.budget + 1) >= 1
    # and one cell more would not fit
    finer = [
        k for k in itertools.product(range(reach), repeat=n) if sum(v * v for v in k) <= cells.budget + 1
    ]
    assert cells.n_bits <= math.floor(n * bits)
    assert len(finer) == len(kept) or (len(finer) << n) > 2 ** math.floor(n * bits)


@pytest.mark.parametrize(("n", "bits"), [(3, 9.0), (40, 7.0), (200, 4.0)])
def test_coarse_sums_keep_every_cell_of_the_ball(n: int, bits: float) -> None:
    cells = grid(n, bits)
    assert cells.unit > 1
    assert cells.n_bits <= math.floor(n * bits)
    x, one = on_sphere(n, 300), np.ones(300)
    k = cells.magnitudes(x, one)
    assert cells.keeps(k).all()
    error = np.linalg.norm(cells.midpoints(k, x < 0, one) - x, axis=1)
    assert error.max() <= cells.covering_ratio
    for i in (0, cells.count // 3, cells.count - 1):
        assert cells.number(cells.cell(i)) == i


# The values of an independent simulation: q of the ball, against √n/2^R of the cube
@pytest.mark.parametrize(
    ("n", "bits", "q", "cube"),
    [(32, 2, 0.73, 1.41), (104, 2, 0.79, 2.55), (32, 3, 0.29, 0.71), (104, 3, 0.31, 1.27)],
)
def test_covering_ratios(n: int, bits: float, q: float, cube: float) -> None:
    codec = Ball(bits=bits)
    assert codec.covering_ratio(spec(n)) == pytest.approx(q, abs=0.006)
    assert math.sqrt(n) / 2**bits == pytest.approx(cube, abs=0.006)
    assert 1 <= codec.covering_efficiency(spec(n)) <= 3.3


# ---- the codec


@pytest.mark.parametrize("n", [1, 2, 3, 8, 32, 104])
@pytest.mark.parametrize("bits", [1.0, 1.8, 2.0, 3.3])
def test_errors_stay_within_the_covering_radius(n: int, bits: float) -> None:
    codec, r = Ball(bits=bits, range=2.5), 2.5
    q = codec.covering_ratio(spec(n))
    for shrink, x in zip([1, 1, 0.7, 0.2, 0], on_sphere(n, 5) * r, strict=True):
        assert np.linalg.norm(through(codec, shrink * x) - shrink * x) <= q * r * (1 + 1e-12)
    for corner in np.eye(n)[:4] * r:
        assert np.linalg.norm(through(codec, -corner) + corner) <= q * r * (1 + 1e-12)
    payload, _ = codec.encode(np.zeros(n), spec(n), KEY)
    assert len(payload) <= HEADER_SIZE + math.ceil(n * bits / 8)


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300, 5e-324])
def test_a_range_of_its_own(scale: float) -> None:
    codec, x = Ball(bits=3), np.array([3.0, -4.0, 0.0, 2.0, -0.0, 1.0]) * scale
    y = through(codec, x)
    r = math.hypot(*(x / scale))
    slack = 1e-12 if scale > 5e-324 else 2.0
    assert np.linalg.norm((y - x) / scale) <= r * (codec.covering_ratio(spec(6)) + slack)
    assert len(codec.encode(x, spec(6), KEY)[0]) == HEADER_SIZE + 8 + 3
    assert not through(codec, np.zeros(6)).any()
    assert len(codec.encode(np.zeros(6), spec(6), KEY)[0]) == HEADER_SIZE + 8


def test_the_knob_is_the_range() -> None:
    x = on_sphere(8, 1)[0] * 0.3
    sent, _ = Ball(range=0.3).encode(x, spec(8), KEY)
    knobs = {"range": struct.pack("<d", 0.3)}
    for codec in (Ball(), Ball(range=5.0)):
        payload, _ = codec.encode(x, spec(8), KEY, knobs=knobs)
        assert payload[HEADER_SIZE:] == sent[HEADER_SIZE:]
        assert np.array_equal(
            codec.decode(payload, spec(8), KEY, knobs), Ball(range=0.3).decode(sent, spec(8), KEY)
        )
        with pytest.raises(CodecError, match="checksum differs"):
            codec.decode(payload, spec(8), KEY, {"range": struct.pack("<d", 0.31)})
    assert not through(Ball(), np.zeros(8), range=struct.pack("<d", 0.0)).any()


@pytest.mark.parametrize("knob", [3, b"", b"1234567", struct.pack("<d", -1.0), struct.pack("<d", math.nan)])
def test_bad_knobs_are_refused(knob: int | bytes) -> None:
    with pytest.raises(CodecError, match=r"^ball: (knob range=|range )"):
        through(Ball(), np.zeros(4), range=knob)


@pytest.mark.parametrize("x", [[2.0, 0.0], [0.9, 0.9], [-1e300, 0.0]])
@pytest.mark.parametrize("r", [1.0, 1e-3, 5e-324])
def test_vectors_outside_are_refused(x: list[float], r: float) -> None:
    with pytest.raises(CodecError, match=r"ball: ‖x‖₂ = .* is outside r = "):
        Ball(bits=8, range=r).encode(np.array(x), spec(2), KEY)
    with pytest.raises(CodecError, match="is outside r = 0"):
        through(Ball(), np.array(x), range=struct.pack("<d", 0.0))


def test_what_it_does_not_code() -> None:
    with pytest.raises(CodecError, match="ball: codes float64, not float32"):
        Ball().init(Spec(3))
    with pytest.raises(CodecError, match="201 numbers of 4 bits are more than the 800 bits"):
        Ball(bits=4).init(spec(MAX_BITS // 4 + 1))
    with pytest.raises(CodecError, match="range inf is negative or not finite"):
        through(Ball(), np.full(4, 1.7e308))


def test_cells_beyond_the_largest_float_are_refused() -> None:
    codec, top = Ball(bits=2.0), {"range": struct.pack("<d", 1.797e308)}
    x = np.eye(104)[0] * 1.797e308
    payload, _ = codec.encode(x, spec(104), KEY, knobs=top)
    assert grid(104, 2.0).step * 6.5 > 1.001  # the cell of k = 6 reaches beyond r
    with pytest.raises(CodecError, match="decodes to a number that is not finite"):
        codec.decode(payload, spec(104), KEY, top)


def test_the_bytes_do_not_change() -> None:
    # n = 2, R = 3: 6 bits, signs below; Σk² ≤ 15 keeps 15 magnitudes: (0,0…3), (1,0…3), (2,0…3), (3,0…2)
    cells = grid(2, 3.0)
    assert (cells.budget, cells.count, cells.n_bits) == (15, 15, 6)
    payload, _ = Ball(bits=3, range=1.0).encode(np.array([-0.99, 0.01]), spec(2), KEY)
    assert payload[HEADER_SIZE:] == bytes([12 << 2 | 0b01])


def test_hostile_bodies_are_refused_or_finite() -> None:
    codec = Ball(bits=3, range=1.0)
    context = codec.context(spec(2), KEY, NO_KNOBS)
    good = 0
    for byte in range(256):
        try:
            y = codec.decode(wire.frame(bytes([byte]), context), spec(2), KEY)
        except CodecError:
            continue
        good += 1
        assert wire.unframe(codec.encode(y, spec(2), KEY)[0], context) == bytes([byte])
    assert good == 15 * 4
    with pytest.raises(CodecError, match="ball: cell 15 does not exist, there are 15"):
        codec.decode(wire.frame(bytes([15 << 2]), context), spec(2), KEY)
    for body in (b"", b"\0\0"):
        with pytest.raises(CodecError, match=f"ball: body of {len(body)} bytes, expected 1"):
            codec.decode(wire.frame(body, context), spec(2), KEY)
    own = Ball(bits=3)
    for body, text in ((b"1234567", "range alone takes 8"), (struct.pack("<d", -1.0) + b"\0", "negative")):
        with pytest.raises(CodecError, match=text):
            own.decode(wire.frame(body, own.context(spec(2), KEY, NO_KNOBS)), spec(2), KEY)


def test_empty_vectors_and_configurations() -> None:
    assert through(Ball(), np.zeros(0)).shape == (0,)
    assert through(Ball(range=1.0), np.zeros(0)).shape == (0,)
    assert Ball(bits=3).identity == Ball(bits=3.0).identity
    assert registry.config(Ball(bits=2.5, range=1)) == {"name": "ball", "bits": 2.5, "range": 1.0}
