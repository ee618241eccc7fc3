"""The Hadamard transform and the QCS quantizer in numba: one pass over a partition, held in the cache."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.kernels.compiled.jit import inlined, kernel, spread
from fedquant.kernels.compiled.rng import draw
from fedquant.kernels.reference.hadamard import (
    LARGE,
    LIFT,
    LOWER,
    SMALL,
    at_least,
    dense,
    key_words,
    largest_scale,
    matrix,
    orders,
    positive_levels,
)
from fedquant.keys import Key

__all__ = ["at_least", "decode", "dense", "encode", "largest_scale", "matrix", "orders", "transform"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
f32, i32, u8, u32 = np.float32, np.int32, np.uint8, np.uint32

MAGNITUDE: Final = np.int32(0x7FFFFFFF)
SIGN: Final = np.uint32(0x80000000)
SMALL_BITS: Final = int(SMALL.view(np.int32))
LARGE_BITS: Final = int(LARGE.view(np.int32))
STEP: Final = np.float32(2.0**-16)


# ---- the transform: passes over one partition that a core keeps in its first-level cache.
# Arrays are indexed, not sliced, and buffers named, not swapped: else the loops do not vectorise.


@inlined
def _copy(x, y):  # type: ignore[no-untyped-def]
    for j in range(x.size):
        y[j] = x[j]


@inlined
def _radix2(x, y):  # type: ignore[no-untyped-def]
    """Butterflies over the lowest bit of the index, which moves to the top."""
    h = x.size // 2
    for j in range(h):
        a, b = x[2 * j], x[2 * j + 1]
        y[j] = a + b
        y[j + h] = a - b


@inlined
def _radix4(x, y):  # type: ignore[no-untyped-def]
    """Butterflies over the two lowest bits of the index, which move to the top."""
    h = x.size // 4
    for j in range(h):
        a, b, c, d = x[4 * j], x[4 * j + 1], x[4 * j + 2], x[4 * j + 3]
        s, t, p, q = a + b, a - b, c + d, c - d
        y[j] = s + p
        y[j + h] = t + q
        y[j + 2 * h] = s - p
        y[j + 3 * h] = t - q


@inlined
def _strided(x, h):  # type: ignore[no-untyped-def]
    """Butterflies, in place, over the bit of weight h."""
    for start in range(0, x.size, 2 * h):
        a, b = x[start : start + h], x[start + h : start + 2 * h]
        for j in range(h):
            s, t = a[j] + b[j], a[j] - b[j]
            a[j] = s
            b[j] = t


@inlined
def _dense(x, y, columns):  # type: ignore[no-untyped-def]
    """y = D·x, piece by piece; row i of `columns` is column i of D, whose order is a multiple of 4."""
    d = len(columns)
    for start in range(0, x.size, d):
        out = y[start : start + d]
        for j in range(d):
            out[j] = f32(0)
        for i in range(0, d, 4):
            p, q, s, t = x[start + i], x[start + i + 1], x[start + i + 2], x[start + i + 3]
            a, b, c, e = columns[i], columns[i + 1], columns[i + 2], columns[i + 3]
            for j in range(d):
                out[j] = out[j] + p * a[j] + q * b[j] + s * c[j] + t * e[j]


@inlined
def _hadamard(x, y, columns):  # type: ignore[no-untyped-def]
    """x = H·x, through the buffer y."""
    n, h = x.size, len(columns)
    if h > 1:
        _dense(x, y, columns)
        while h < n:
            _strided(y, h)
            h *= 2
        _copy(y, x)
        return
    # Buffers are named, not swapped: a loop whose arrays trade places does not vectorise.
    while 16 * h <= n:
        _radix4(x, y)
        _radix4(y, x)
        h *= 16
    if n == 8 * h:
        _radix4(x, y)
        _radix2(y, x)
    elif n == 4 * h:
        _radix4(x, y)
        _copy(y, x)
    elif n == 2 * h:
        _radix2(x, y)
        _copy(y, x)


@kernel
def _transform(x, out, order, columns):  # type: ignore[no-untyped-def]
    a, b = np.empty(order, f32), np.empty(order, f32)
    for start in range(0, x.size, order):
        _copy(x[start : start + order], a)
        _hadamard(a, b, columns)
        _copy(a, out[start : start + order])


def _columns(order: int, transpose: bool) -> F32:
    return np.ascontiguousarray(dense(order) if transpose else dense(order).T)


def transform(x: F32, transpose: bool = False) -> F32:
    """H·x, or Hᵀ·x, of each row of x: float32[rows, order]."""
    out, order, columns = np.empty(x.shape, f32), x.shape[1], _columns(x.shape[1], transpose)
    flat, mixed = np.ascontiguousarray(x).reshape(-1), out.reshape(-1)
    spread(lambda a, b: _transform(flat[a:b], mixed[a:b], order, columns), flat.size, order)
    return out


# ---- the quantizer


@inlined
def _draws(out, i, low, high):  # type: ignore[no-untyped-def]
    for j in range(out.size):
        out[j] = draw(i, low, high)
        i = u32(i + u32(1))


@inlined
def _flip(x, y, words, shift):  # type: ignore[no-untyped-def]
    """y = r ⊙ x on the bits of floats; returns the bits of the largest magnitude."""
    peak = i32(0)
    for j in range(words.size):
        value = x[j]
        peak = max(peak, i32(value & MAGNITUDE))
        y[j] = value ^ i32(u32(words[j] << shift) & SIGN)
    return peak


@inlined
def _peak(x):  # type: ignore[no-untyped-def]
    peak = i32(0)
    for j in range(x.size):
        peak = max(peak, i32(x[j] & MAGNITUDE))
    return peak


@inlined
def _unit(half):  # type: ignore[no-untyped-def]
    """16 bits of a draw as float32 in (0, 1)."""
    return f32(i32(half)) * STEP + f32(STEP / 2)


@inlined
def _round(v, inverse, offset, top, draws, out):  # type: ignore[no-untyped-def]
    """Codes of v: the lower halves of the draws dither the first coefficients, the upper ones the rest."""
    h = draws.size
    for j in range(h):
        out[j] = u8(min(i32(v[j] * inverse + offset + _unit(draws[j] & u32(0xFFFF))), top))
    rest, codes = v[h:], out[h:]
    for j in range(codes.size):
        codes[j] = u8(min(i32(rest[j] * inverse + offset + _unit(draws[j] >> u32(16))), top))


@inlined
def _center(codes, offset, draws, v):  # type: ignore[no-untyped-def]
    """What codes stand for, in steps."""
    h = draws.size
    for j in range(h):
        v[j] = f32(codes[j]) - offset - _unit(draws[j] & u32(0xFFFF))
    part, rest = codes[h:], v[h:]
    for j in range(part.size):
        rest[j] = f32(part[j]) - offset - _unit(draws[j] >> u32(16))


@inlined
def _scale(x, y, gain, scale, words, shift):  # type: ignore[no-untyped-def]
    """y = gain·scale·(r ⊙ x)."""
    for j in range(words.size):
        y[j] = x[j] * gain * (-scale if i32(words[j] << shift) < i32(0) else scale)


@kernel
def _encode(x, first, k, levels, columns, q, root, short, keys, words, scales, codes):  # type: ignore[no-untyped-def]
    order, half = words.size, (k + 1) // 2
    a, b, draws = np.empty(order, f32), np.empty(order, f32), np.empty(half, u32)
    cell = np.empty(1, f32)
    bits = cell.view(u32)
    top, offset = i32(levels - 1), f32(q)
    for row in range(scales.size):
        p = first + row
        if p % 32 == 0:
            _draws(words, u32(p // 32 * order), keys[0], keys[1])
        peak = _flip(x[row * order : (row + 1) * order], a.view(i32), words, u32(31 - p % 32))
        lift = f32(1)
        if peak < SMALL_BITS or peak > LARGE_BITS:
            lift = LIFT if peak < SMALL_BITS else LOWER
            for j in range(order):
                a[j] *= lift
        _hadamard(a, b, columns)
        v, out = a[:k], codes[row * k : (row + 1) * k]
        bits[0] = u32(_peak(v.view(i32)))
        exact = float(cell[0]) * (root / q) / float(lift)
        cell[0] = f32(exact)
        if float(cell[0]) < exact:
            bits[0] += u32(1)
        if short:
            bits[0] = (bits[0] + u32(0xFFFF)) & u32(0xFFFF0000)
        scale = cell[0]
        scales[row] = scale
        if scale == 0:
            out[:] = 0
        elif k == 1:
            out[0] = v[0] >= 0
        else:
            _draws(draws, u32(p * half), keys[2], keys[3])
            _round(v, f32(root / (float(scale) * float(lift))), offset, top, draws, out)


@kernel
def _decode(scales, codes, first, k, q, gain, columns, keys, words, out):  # type: ignore[no-untyped-def]
    order, half = words.size, (k + 1) // 2
    a, b, draws = np.empty(order, f32), np.empty(order, f32), np.empty(half, u32)
    offset = f32(q - 0.5)
    for row in range(scales.size):
        p = first + row
        if p % 32 == 0:
            _draws(words, u32(p // 32 * order), keys[0], keys[1])
        part = codes[row * k : (row + 1) * k]
        if k == 1:
            a[0] = f32(2) * f32(part[0]) - f32(1)
        else:
            _draws(draws, u32(p * half), keys[2], keys[3])
            _center(part, offset, draws, a)
        a[k:] = f32(0)
        _hadamard(a, b, columns)
        to = out[row * order : (row + 1) * order]
        _scale(a, to, gain, scales[row], words, u32(31 - p % 32))


def encode(
    x: F32, order: int, k: int, levels: int, signs: Key, dither: Key, short: bool = False
) -> tuple[F32, U8]:
    """(scales: float32[p], codes: uint8[p·k] in [0, levels)) of p partitions x: float32[p·order].

    v = H_k(r ⊙ x)/√k, code = ⌊v/ς + Q + u + ½⌋ with ς ≥ ‖v‖∞/Q, rounded up to 16 bits if `short` (eqs. 2–5).
    """
    rows = x.size // order
    scales, codes = np.empty(rows, f32), np.empty(rows * k, u8)
    q, root = positive_levels(k, levels), 1 / math.sqrt(k)
    columns, keys, bits = _columns(order, False), key_words(signs, dither), x.view(i32)

    def run(start: int, stop: int) -> None:
        p, end = start // order, stop // order
        part, words = codes[p * k : end * k], np.empty(order, u32)
        _encode(bits[start:stop], p, k, levels, columns, q, root, short, keys, words, scales[p:end], part)

    spread(run, x.size, 32 * order)
    return scales, codes


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
    q, gain = positive_levels(k, levels), np.float32(alpha / math.sqrt(k))
    columns, keys = _columns(order, True), key_words(signs, dither)

    def run(start: int, stop: int) -> None:
        p, end = start // order, stop // order
        part, words = codes[p * k : end * k], np.empty(order, u32)
        _decode(scales[p:end], part, p, k, q, gain, columns, keys, words, out[start:stop])

    spread(run, out.size, 32 * order)
