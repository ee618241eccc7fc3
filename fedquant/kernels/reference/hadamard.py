"""Hadamard matrices, their transform, and the QCS quantizer that is built on it (Abdi & Fekri 2020).

The matrix of an order is S ⊗ D: a Sylvester matrix S of 2**m rows and a dense factor D, which is 1, or the
smallest matrix of Paley's first or second construction that makes up the order. Up to 512 a product of two
such orders is such an order again, so no further Kronecker products are needed.

Every sum has one order: along a row of D from left to right, then butterflies over S from its lowest bit up.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.kernels.reference import rng
from fedquant.keys import Key

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
U8 = npt.NDArray[np.uint8]

MAX_ORDER: Final = 512
MAX_LEVELS: Final = 256
# A partition whose largest magnitude is outside [SMALL, LARGE] is scaled by a power of two on its way
# through the transform: no sum of 512 numbers overflows, no product is denormal.
SMALL: Final = np.float32(2.0**-64)
LARGE: Final = np.float32(2.0**100)
LIFT: Final = np.float32(2.0**64)
LOWER: Final = np.float32(2.0**-16)
STEP: Final = np.float32(2.0**-16)

# ---- which matrices there are


def _prime_power(q: int) -> tuple[int, int] | None:
    """(p, e) with q = p**e for an odd prime p, or None."""
    p = next((f for f in range(3, q + 1, 2) if q % f == 0), 2)
    e = round(math.log(q, p)) if q > 1 else 0
    return (p, e) if q % 2 and e and p**e == q else None


@cache
def _dense_order(order: int) -> int | None:
    """Rows of the dense factor D, or None where the order cannot be constructed."""
    if order < 1 or order & (order - 1) == 0:
        return 1 if order >= 1 else None
    size = 4 * (order // (order & -order))
    while order % size == 0:
        if _prime_power(size - 1) or (size % 8 == 4 and _prime_power(size // 2 - 1)):
            return size
        size *= 2
    return None


@cache
def orders() -> tuple[int, ...]:
    """Every order up to 512 that Sylvester's and Paley's constructions give, rising."""
    return tuple(n for n in range(1, MAX_ORDER + 1) if _dense_order(n))


def at_least(n: int) -> int:
    """The smallest order of at least n; 1 ≤ n ≤ 512."""
    return next(order for order in orders() if order >= n)


def _squares(digits: npt.NDArray[np.int64], p: int, tail: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Squares of polynomials over GF(p), rows of coefficients, where x**e = Σ tail_i·x**i."""
    e = digits.shape[1]
    full = np.zeros((len(digits), 2 * e - 1), np.int64)
    for i in range(e):
        full[:, i : i + e] += digits[:, i : i + 1] * digits
    for top in range(2 * e - 2, e - 1, -1):
        full[:, top - e : top] += full[:, top : top + 1] * np.array(tail)
        full %= p
    return full[:, :e] % p


def _character(p: int, e: int) -> I8:
    """int8[q, q]: 1 where a − b is a square of GF(p**e), −1 where it is not, 0 for a = b."""
    q, weights = p**e, p ** np.arange(e)
    digits = np.arange(q)[:, None] // weights % p
    for tail in product(range(p), repeat=e):
        squares = np.unique(_squares(digits, p, tail) @ weights)
        # The polynomials form a field just where half of the non-zero ones are squares.
        if np.count_nonzero(squares) == (q - 1) // 2:
            break
    chi = np.full(q, -1, np.int8)
    chi[squares] = 1
    chi[0] = 0
    difference: npt.NDArray[np.int64] = (digits[:, None] - digits) % p @ weights
    return chi[difference]


def _paley(order: int) -> I8:
    q = order - 1
    first = _prime_power(q)
    p, e = first or _prime_power(q := order // 2 - 1) or (0, 0)
    core = np.zeros((q + 1, q + 1), np.int8)
    core[0, 1:] = 1
    core[1:, 0] = -1 if first else 1
    core[1:, 1:] = _character(p, e)
    eye = np.eye(q + 1, dtype=np.int8)
    if first:
        return core + eye
    corner = np.array([[1, 1], [1, -1]], np.int8)
    side = np.array([[1, -1], [-1, -1]], np.int8)
    return np.kron(core, corner) + np.kron(eye, side)


@cache
def dense(order: int) -> F32:
    """float32[d, d]: the dense factor D of an order. Raises ValueError where there is none."""
    size = _dense_order(order) if order <= MAX_ORDER else None
    if size is None:
        raise ValueError(f"hadamard: no construction of order {order}")
    factor = np.ones((1, 1), np.float32) if size == 1 else _paley(size).astype(np.float32)
    factor.flags.writeable = False
    return factor


def matrix(order: int) -> F32:
    """float32[order, order] of ±1 with H·Hᵀ = order·I. Raises ValueError where there is none."""
    h = dense(order)
    while len(h) < order:
        n = len(h)
        h = np.kron(np.array([[1, 1], [1, -1]], np.float32), h).reshape(2 * n, 2 * n)
    return h


# ---- the transform


def transform(x: F32, transpose: bool = False) -> F32:
    """H·x, or Hᵀ·x, of each row of x: float32[rows, order]."""
    rows, order = x.shape
    factor = dense(order).T if transpose else dense(order)
    h = len(factor)
    y = x
    if h > 1:
        parts = x.reshape(-1, h)
        y = np.zeros_like(parts)
        for column in range(h):
            y += parts[:, column, None] * factor[:, column]
    while h < order:
        pairs = y.reshape(-1, 2, h)
        y = np.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), axis=1)
        h *= 2
    return np.array(y, np.float32).reshape(rows, order)


# ---- the quantizer


def positive_levels(k: int, levels: int) -> float:
    """Q: codes are spread over [−Q, Q]. One coefficient alone sends its sign, and its scale says the rest."""
    return (levels - 1) / 2 if k > 1 else 1.0


def largest_scale(k: int, levels: int) -> float:
    """The scale above which a decoded number might not fit float32."""
    return (
        float(np.finfo(np.float32).max) / (math.sqrt(k) * (positive_levels(k, levels) + 0.5)) * (1 - 2**-20)
    )


def key_words(signs: Key, dither: Key) -> npt.NDArray[np.uint32]:
    """uint32[4]: the words of both keys, low halves first."""
    return np.array([w >> i & 0xFFFFFFFF for w in (signs.word, dither.word) for i in (0, 32)], np.uint32)


def _flips(signs: Key, rows: int, order: int) -> F32:
    """float32[rows, order] of ±1: bit p % 32 of draw p // 32·order + j turns coordinate j of row p."""
    words = rng.uint32(signs, -(-rows // 32) * order).reshape(-1, 1, order)
    bits = (words >> np.arange(32, dtype=np.uint32)[:, None] & np.uint32(1)).reshape(-1, order)[:rows]
    return np.float32(1) - np.float32(2) * bits.astype(np.float32)


def _dither(dither: Key, rows: int, k: int) -> F32:
    """float32[rows, k] in (0, 1): u + ½ with u of 16 bits, so E q − u = v/ς to 2⁻¹⁷.

    Draw row·⌈k/2⌉ + j gives coefficient j by its lower half, and j + ⌈k/2⌉ by its upper.
    """
    words = rng.uint32(dither, rows * -(-k // 2)).reshape(rows, -(-k // 2))
    halves = np.concatenate([words & np.uint32(0xFFFF), words >> np.uint32(16)], axis=1)[:, :k]
    return halves.astype(np.float32) * STEP + STEP / 2


def round_up(scale: npt.NDArray[np.float64], short: bool) -> F32:
    """float32 at least `scale`; with its lower 16 bits zero if `short`; infinite where none is."""
    with np.errstate(over="ignore"):
        up = scale.astype(np.float32)
    up = np.where(up < scale, np.nextafter(up, np.float32(np.inf)), up).astype(np.float32)
    if short:
        up = ((up.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
    return up


def encode(
    x: F32, order: int, k: int, levels: int, signs: Key, dither: Key, short: bool = False
) -> tuple[F32, U8]:
    """(scales: float32[p], codes: uint8[p·k] in [0, levels)) of p partitions x: float32[p·order].

    v = H_k(r ⊙ x)/√k, code = ⌊v/ς + Q + u + ½⌋ with ς ≥ ‖v‖∞/Q, rounded up to 16 bits if `short` (eqs. 2–5).
    """
    rows = x.reshape(-1, order)
    peak = np.abs(rows).max(axis=1, initial=0)
    lift = np.where(peak < SMALL, LIFT, np.where(peak > LARGE, LOWER, np.float32(1))).astype(np.float32)
    v = transform(rows * lift[:, None] * _flips(signs, *rows.shape))[:, :k]
    q, root = positive_levels(k, levels), 1 / math.sqrt(k)
    peak = np.abs(v).max(axis=1, initial=0)
    scales = round_up(peak.astype(np.float64) * (root / q) / lift, short)
    if k == 1:
        return scales, (v[:, 0] >= 0).astype(np.uint8) * (scales > 0)
    step = scales.astype(np.float64) * lift
    inverse = np.divide(root, step, out=np.zeros_like(step), where=step > 0).astype(np.float32)
    v = v * inverse[:, None] + np.float32(q)
    v += _dither(dither, len(v), k)
    codes = np.minimum(v.astype(np.int32), levels - 1).astype(np.uint8)
    codes[scales == 0] = 0
    return scales, codes.reshape(-1)


def decode(
    scales: F32,
    codes: U8,
    out: F32,
    order: int,
    k: int,
    levels: int,
    alpha: float,
    signs: Key,
    dither: Key,
) -> None:
    """Sets out: float32[p·order] to α/√k·r ⊙ H_kᵀ(ς(q − u)) (eqs. 6 and 8); infinite where too large."""
    rows = scales.size
    x = np.zeros((rows, order), np.float32)
    x[:, :k] = codes.reshape(rows, k)
    if k == 1:
        x[:, 0] = np.float32(2) * x[:, 0] - np.float32(1)
    else:
        x[:, :k] -= np.float32(positive_levels(k, levels) - 0.5)
        x[:, :k] -= _dither(dither, rows, k)
    y = transform(x, transpose=True) * np.float32(alpha / math.sqrt(k))
    with np.errstate(over="ignore"):
        np.multiply(y, scales[:, None] * _flips(signs, rows, order), out=out.reshape(rows, order))
