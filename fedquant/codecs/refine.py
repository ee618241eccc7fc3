"""Successive refinement: samples held on a coarse grid are brought to a nested, finer one by the difference.

Beyond DaQuSGD's paper. The finer grid cuts each step B/s of the coarse one, s = m − 1, into r: it has
m' = s·r + 1 levels, and what is rounded toward zero to it and then to the coarse grid is rounded to the
coarse one. So a level c ≠ 0 and a digit in [0, r) give the finer level sign(c)·(|c|·r + digit); where
c = 0, the digit has a sign of its own. Both sides know the levels held; nothing that they say is sent again.

Body: mode byte; the digits of all c ≠ 0, in order, then those of all c = 0; none where a sample's scale is 0.
    0       mixed radix: the first with r levels, the others, as digit + r − 1, with 2r − 1
    1       entropy-coded: all as digit + r − 1 with 2r − 1 levels, the two parts as segments
Bit 4: no digit is negative; then all are coded as they are, with r levels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from fedquant.codecs import entropy
from fedquant.codecs.base import Array
from fedquant.codecs.dataq import ENTROPY, FIXED, UNSIGNED
from fedquant.codecs.grid import Quantized
from fedquant.errors import CodecError
from fedquant.kernels import pack

MAX_LEVELS: Final = 1 << 16


def refine(x: Array, held: Quantized, r: int) -> tuple[bytes, Quantized]:
    """(body, the samples on the finer grid) of x: float32[n, size], which the receiver has as `held`.

    Raises CodecError where `held` is not x rounded toward zero, or m' exceeds 2**16.
    """
    m, live = _finer(held, r), held.scales > 0
    coarse, levels = held.levels[live], held.on_grid(x, m)[live]
    base = np.abs(coarse) * np.int32(r)
    digits = np.abs(levels) - base
    if (digits < -1).any() or (digits > r).any() or (np.sign(coarse) * np.sign(levels) < 0).any():
        raise CodecError("refine: the levels held are not the samples rounded toward zero")
    # Scale max computes in float32: within 2⁻²² of a coarse level the two grids may disagree by one.
    digits = np.clip(digits, 0, r - 1)
    signed = np.where(levels < 0, -digits, digits)
    inner = coarse == 0
    first, second = digits[~inner], signed[inner]
    mode = UNSIGNED if second.min(initial=0) >= 0 else 0
    shift, alphabet = (0, r) if mode else (r - 1, 2 * r - 1)
    fixed = pack.pack_radix(first.astype(np.uint32), r)
    fixed += pack.pack_radix((second + shift).astype(np.uint32), alphabet)
    codes = np.concatenate([first, second]) + shift
    coded = entropy.pack(codes.astype(np.uint32), alphabet, _parts(first.size, codes.size))
    body = bytes([mode | FIXED]) + fixed if len(fixed) <= len(coded) else bytes([mode | ENTROPY]) + coded
    finer = np.zeros_like(held.levels)
    finer[live] = _join(coarse, base, first, second)
    return body, replace(held, levels=finer, m=m)


def refined(body: bytes, held: Quantized, r: int) -> Quantized:
    """`held` on the finer grid. Raises CodecError, and nothing else, for a bad body."""
    m, live = _finer(held, r), held.scales > 0
    coarse = held.levels[live]
    n, total = int(np.count_nonzero(coarse)), coarse.size
    if not body or body[0] & ~UNSIGNED not in (FIXED, ENTROPY):
        raise CodecError(f"refine: mode {body[:1].hex() or 'missing'} is not known to this version")
    shift, alphabet = (0, r) if body[0] & UNSIGNED else (r - 1, 2 * r - 1)
    if body[0] & ENTROPY:
        codes = entropy.unpack(body[1:], total, alphabet, _parts(n, total)).astype(np.int32)
        first, second = codes[:n] - shift, codes[n:] - shift
    else:
        cut = 1 + pack.radix_size(n, r)
        first = pack.unpack_radix(body[1:cut], n, r).astype(np.int32)
        second = pack.unpack_radix(body[cut:], total - n, alphabet).astype(np.int32) - shift
    levels = _join(coarse, np.abs(coarse) * np.int32(r), first, second)
    if first.min(initial=0) < 0 or np.abs(levels).max(initial=0) >= m:
        raise CodecError("refine: a digit leaves its cell")
    finer = np.zeros_like(held.levels)
    finer[live] = levels
    return replace(held, levels=finer, m=m)


def _finer(held: Quantized, r: int) -> int:
    m = (held.m - 1) * r + 1
    if r < 2 or m > MAX_LEVELS:
        raise CodecError(
            f"refine: {r} levels in each of {held.m - 1} would be {m}; from 2 on, up to {MAX_LEVELS}"
        )
    return m


def _parts(n: int, total: int) -> tuple[int, ...]:
    return (n, total) if 0 < n < total else ()


def _join(coarse: Array, base: Array, first: Array, second: Array) -> Array:
    levels, inner = base.copy(), coarse == 0
    levels[~inner] += first
    levels[inner] = second
    return np.where(coarse < 0, -levels, levels)
