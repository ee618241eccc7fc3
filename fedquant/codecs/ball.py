"""Ball: a cubic grid of which only the cells that meet the ball ‖x‖₂ ≤ r are kept and numbered, float64.

Lin, Kostina, Hassibi, "Differentially Quantized Gradient Descent", (14)–(16), ask for a small covering
radius over a ball; the cube [−r, r]^n pays √n for its corners, which differential quantization never visits.

A cell is a sign and a magnitude k_i ∈ {0, 1, …} a coordinate, decoded to its midpoint ±(k_i + ½)·step·r.
Its point nearest to 0 has norm step·r·√Σk_i², so the ball meets the cells with Σk_i² ≤ step⁻². Those are
counted by dynamic programming over Σ⌊k_i²/unit⌋, in integers, and numbered in lexicographic order
(enumerative coding: T. Cover, 1973).

Body: r as float64 where neither `range` nor its knob gives it; then, unless r = 0, one little-endian
integer: the n signs in its lowest bits (1 for x < 0), the number of the magnitudes above them.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, ClassVar, Final, final

import numpy as np
from pydantic import Field

from fedquant.codecs.base import Array, Body, Codec, Spec, State
from fedquant.errors import CodecError
from fedquant.kernels import scan
from fedquant.keys import Key
from fedquant.wire import Knobs

MAX_BITS: Final = 800  # of a payload: counting its cells takes up to 2 s, once a process
"""Numbers a vector: beyond it the table of counts outgrows memory."""

_FLOAT64: Final = struct.Struct("<d")
_TABLE: Final = 1 << 25  # bytes of counts
_FINEST: Final = 1024  # sums that are told apart
_SLACK: Final = 1 + 2.0**-40  # of the step: no rounding may push a point of the ball out of the kept cells


@final
@dataclass(frozen=True)
class Ball(Codec):
    """⌊n·bits⌋ bits at most, and n·bits ≤ 800: ‖x̂ − x‖₂ ≤ q·r for ‖x‖₂ ≤ r, `covering_ratio` tells q.

    range: r, known to both sides; None: ‖x‖₂, sent with each payload. The knob `range` overrides it: 8 bytes,
    float64 little-endian. A vector in none of the kept cells is an error, never clipped; cells at the ball's
    surface reach beyond it, so that a vector slightly outside may pass, with the same error.
    """

    name: ClassVar[str] = "ball"
    knob_names = frozenset({"range"})

    bits: Annotated[float, Field(ge=1, le=10)] = 4.0
    range: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def __post_init__(self) -> None:
        # 3 and 3.0 are one configuration, so they must be one text in the checksum.
        object.__setattr__(self, "bits", float(self.bits))
        if self.range is not None:
            object.__setattr__(self, "range", float(self.range))

    def check(self, spec: Spec) -> None:
        """Raises CodecError for anything but float64, and for long vectors."""
        if spec.dtype != "float64":
            raise CodecError(f"ball: codes float64, not {spec.dtype}; use qsgd")
        if spec.size * self.bits > MAX_BITS:
            raise CodecError(
                f"ball: {spec.size} numbers of {self.bits:g} bits are more than the {MAX_BITS} bits that "
                "it counts cells of; use uniform"
            )

    def covering_ratio(self, spec: Spec) -> float:
        """q: the largest ‖x̂ − x‖₂ over the ball is at most q·r."""
        return grid(spec.size, self.bits).covering_ratio

    def covering_efficiency(self, spec: Spec) -> float:
        """ρ = (number of cells)^(1/n)·q ≥ 1, paper (16)."""
        return grid(spec.size, self.bits).covering_efficiency

    def known_range(self, knobs: Knobs) -> float | None:
        """r where both sides know it, None where it is sent. Raises CodecError for a bad knob."""
        if "range" not in knobs:
            return self.range
        knob = knobs["range"]
        if isinstance(knob, int) or len(knob) != _FLOAT64.size:
            raise CodecError(f"ball: knob range={knob!r} is not the 8 bytes of a float64")
        return _checked(*_FLOAT64.unpack(knob))

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        r, head = self.known_range(knobs), b""
        if r is None:
            r = _checked(_norm(x))
            head = _FLOAT64.pack(r)
        cells = grid(spec.size, self.bits)
        magnitudes = cells.magnitudes(x, np.asarray(r))
        if not cells.keeps(magnitudes).all():
            raise CodecError(f"ball: ‖x‖₂ = {_norm(x)} is outside r = {r}; give a larger range")
        data = head
        if r > 0:
            signs = int.from_bytes(np.packbits(x < 0, bitorder="little").tobytes(), "little")
            number = cells.number([int(k) for k in magnitudes]) << spec.size | signs
            data += number.to_bytes(cells.n_bytes, "little")
        return Body(data, lambda: self._decode_body(data, spec, key, knobs), state)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        r, at, cells = self.known_range(knobs), 0, grid(spec.size, self.bits)
        if r is None:
            if len(data) < _FLOAT64.size:
                raise CodecError(f"ball: body of {len(data)} bytes, its range alone takes 8")
            at, r = _FLOAT64.size, _checked(*_FLOAT64.unpack_from(data))
        end = at + (cells.n_bytes if r > 0 else 0)
        if len(data) != end:
            raise CodecError(f"ball: body of {len(data)} bytes, expected {end}")
        if r == 0:
            return np.zeros(spec.size)
        number = int.from_bytes(data[at:], "little")
        if number >> spec.size >= cells.count:
            raise CodecError(f"ball: cell {number >> spec.size} does not exist, there are {cells.count}")
        magnitudes = np.array(cells.cell(number >> spec.size), np.float64)
        raw = np.frombuffer(number.to_bytes(cells.n_bytes, "little"), np.uint8)
        negative = np.unpackbits(raw, count=spec.size, bitorder="little").astype(bool)
        return cells.midpoints(magnitudes, negative, np.asarray(r))


@final
@dataclass(frozen=True)
class Grid:
    """The kept cells of n coordinates: those with Σ⌊k_i²/unit⌋ ≤ budget. Made by `grid`.

    Rounding k_i²/unit down keeps a few cells that miss the ball, and loses none that meets it.
    counts[j] holds, for each s ≤ budget, how many magnitudes of j coordinates sum up to at most s.
    """

    n: int
    unit: int
    budget: int
    slot: int
    counts: tuple[bytes, ...]

    @cached_property
    def weights(self) -> tuple[int, ...]:
        """⌊k²/unit⌋ of each magnitude k that a cell may have."""
        return _weights(self.unit, self.budget)

    @cached_property
    def step(self) -> float:
        """Side of a cell for r = 1: the finest with which the cells left out miss the ball."""
        return _SLACK / math.sqrt((self.budget + 1) * self.unit)

    @property
    def covering_ratio(self) -> float:
        """q: half the diagonal of a cell."""
        return math.sqrt(self.n) * self.step / 2

    @cached_property
    def count(self) -> int:
        """How many magnitudes are numbered; with signs there are 2^n as many cells."""
        return self._count(self.n, self.budget)

    @property
    def n_bits(self) -> int:
        """Bits a cell takes."""
        return self.n + (self.count - 1).bit_length()

    @property
    def n_bytes(self) -> int:
        """Bytes a cell takes."""
        return -(-self.n_bits // 8)

    @property
    def covering_efficiency(self) -> float:
        """ρ = (number of cells)^(1/n)·q."""
        return 2 * 2 ** (math.log2(self.count) / self.n) * self.covering_ratio if self.n else 1.0

    def magnitudes(self, x: Array, r: Array) -> Array:
        """k = ⌊|x| / (step·r)⌋ as float64, for x: float64[…, n] and r: float64[…]."""
        size, r = np.abs(x), r[..., np.newaxis]
        with np.errstate(over="ignore"):  # infinity is in no kept cell
            relative = np.divide(size, r, out=np.where(size > 0, np.inf, 0.0), where=r > 0)
            k: Array = np.floor(relative / self.step)
        return k

    def keeps(self, magnitudes: Array) -> Array:
        """bool[…]: whether the cells of these magnitudes are kept."""
        with np.errstate(over="ignore"):
            kept: Array = np.floor(magnitudes**2 / self.unit).sum(axis=-1) <= self.budget
        return kept

    def midpoints(self, magnitudes: Array, negative: Array, r: Array) -> Array:
        """float64[…, n]: what cells decode to."""
        with np.errstate(over="ignore"):  # a cell may reach beyond r; what is not finite is refused later
            size = (magnitudes + 0.5) * self.step * r[..., np.newaxis]
        return np.where(negative, -size, size)

    def number(self, magnitudes: list[int]) -> int:
        """Which of the kept cells this is, signs aside, in lexicographic order."""
        number, left = 0, self.budget
        for j, k in zip(range(self.n - 1, -1, -1), magnitudes, strict=True):
            number += sum(self._count(j, left - w) for w in self.weights[:k])
            left -= self.weights[k]
        return number

    def cell(self, number: int) -> list[int]:
        """The magnitudes of a number below `count`."""
        magnitudes, left = [], self.budget
        for j in range(self.n - 1, -1, -1):
            k = 0
            while number >= (here := self._count(j, left - self.weights[k])):
                number -= here
                k += 1
            magnitudes.append(k)
            left -= self.weights[k]
        return magnitudes

    def _count(self, j: int, s: int) -> int:
        return _slot(self.counts[j], self.slot, s)


@lru_cache(maxsize=4)
def grid(n: int, bits: float) -> Grid:
    """The finest grid of n coordinates whose kept cells fit ⌊n·bits⌋ bits."""
    most = 1 << (math.floor(n * bits) - n)  # n bits are signs
    # Cells of positive coordinates cover that part of the ball, so this radius² has too many: the part's
    # volume is above `most`, with 3 for π and Γ(n/2+1)² ≤ ⌊n/2⌋!·⌈n/2⌉!. In integers, lest machines differ.
    goal = most**2 * 4**n * math.factorial(n // 2) * math.factorial(n - n // 2)
    radius2 = bisect_left(range(1 << 40), goal, key=lambda e: (3 * e) ** n)
    finest = min(_FINEST, _TABLE // max(1, n * math.ceil(n * bits / 8)))
    unit = 1 + radius2 // finest
    top = radius2 // unit
    slot = 1 + n * math.ceil(math.log2(1 + len(_weights(unit, top)))) // 8
    *_, last = _rows(n, unit, top, slot)
    counts = [_slot(last, slot, s) for s in range(top + 1)]
    budget = bisect_right(counts, most) - 1
    slot = 1 + counts[budget].bit_length() // 8
    return Grid(n, unit, budget, slot, tuple(_rows(n, unit, budget, slot)))


def _weights(unit: int, budget: int) -> tuple[int, ...]:
    return tuple(k * k // unit for k in range(math.isqrt((budget + 1) * unit - 1) + 1))


def _rows(n: int, unit: int, budget: int, slot: int) -> Iterator[bytes]:
    """`Grid.counts` for j = 0 … n: each row is one integer with a slot an s, so that adding two adds all."""
    width = (budget + 1) * slot
    whole, row = (1 << 8 * width) - 1, int.from_bytes(b"\1".ljust(slot, b"\0") * (budget + 1), "little")
    weights = Counter(_weights(unit, budget)).items()
    yield row.to_bytes(width, "little")
    for _ in range(n):
        row = sum(times * (row << 8 * slot * w & whole) for w, times in weights)
        yield row.to_bytes(width, "little")


def _slot(row: bytes, slot: int, s: int) -> int:
    return int.from_bytes(row[s * slot : (s + 1) * slot], "little")


def _norm(x: Array) -> float:
    """‖x‖₂, never rounded down, also where its square would overflow."""
    top = scan.max_abs(x)
    return math.nextafter(top * math.sqrt(scan.sum_squares(x / top)), math.inf) if top > 0 else 0.0


def _checked(r: float) -> float:
    if not 0 <= r < math.inf:
        raise CodecError(f"ball: range {r} is negative or not finite")
    return r
