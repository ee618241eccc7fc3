"""Codes to symbols in numba: the same symbols as the reference."""

from __future__ import annotations

from typing import Final

import numpy as np

from fedquant.kernels.compiled.jit import each, kernel
from fedquant.kernels.reference import symbols as reference
from fedquant.kernels.reference.symbols import (
    PLANE,
    U32,
    Codes,
    Counts,
    Symbols,
    check_codes,
    digits_per_symbol,
    symbols_of,
)

__all__ = ["check_codes", "digits_per_symbol", "join", "split", "symbols_of"]

SPAN: Final = 1 << 18  # codes a task

u8, u32 = np.uint8, np.uint32
HALF: Final = u32(16)


@kernel
def _join(codes, t, levels, symbols, counts):  # type: ignore[no-untyped-def]
    """Fills symbols and counts; returns the largest code."""
    highest = codes.dtype.type(0)
    for b in range(symbols.size // 256):
        z, o = codes[b * 256 * t :], symbols[b * 256 : b * 256 + 256]
        top = z[(t - 1) * 256 : t * 256]
        for j in range(256):
            o[j] = u8(top[j])
            highest = max(highest, top[j])
        for i in range(t - 2, -1, -1):
            plane = z[i * 256 : i * 256 + 256]
            for j in range(256):
                o[j] = u8(o[j] * levels + u8(plane[j]))
                highest = max(highest, plane[j])
        for j in range(0, 256, 4):  # four tables, so that equal neighbours do not wait for each other
            counts[0, o[j]] += 1
            counts[1, o[j + 1]] += 1
            counts[2, o[j + 2]] += 1
            counts[3, o[j + 3]] += 1
    return highest


@kernel
def _split(symbols, t, levels, codes):  # type: ignore[no-untyped-def]
    inverse = u32((u32(65535) + levels) // levels)  # exact below 256
    rest = np.empty(256, u32)
    for b in range(symbols.size // 256):
        y, z = symbols[b * 256 : b * 256 + 256], codes[b * 256 * t :]
        for j in range(256):
            rest[j] = y[j]
        for i in range(t - 1):
            plane = z[i * 256 : i * 256 + 256]
            for j in range(256):
                q = u32(u32(rest[j] * inverse) >> HALF)
                plane[j] = u32(rest[j] - u32(q * levels))
                rest[j] = q
        last = z[(t - 1) * 256 : t * 256]
        for j in range(256):
            last[j] = rest[j]


def join(codes: Codes, levels: int) -> tuple[Symbols, Counts]:
    """(uint8[m], how often each of 256 symbols occurs) of codes: uint[n], levels ≤ 256.

    Raises CodecError for a code that is not below `levels`.
    """
    t = digits_per_symbol(levels)
    full = codes.size // (PLANE * t)
    symbols = np.empty(symbols_of(codes.size, levels), np.uint8)

    def task(start: int) -> Counts:
        stop, counts = min(full, start + step), np.zeros((4, 256), np.int64)
        part = symbols[start * PLANE : stop * PLANE]
        top = _join(codes[start * PLANE * t : stop * PLANE * t], t, u8(levels & 255), part, counts)
        check_codes(int(top), levels)
        total: Counts = counts.sum(axis=0)
        return total

    step = SPAN // (PLANE * t)
    tail, counts = reference.join(codes[full * PLANE * t :], levels)
    symbols[full * PLANE :] = tail
    return symbols, np.sum([counts, *each(task, range(0, full, step), codes.size)], axis=0)


def split(symbols: Symbols, n: int, levels: int) -> U32:
    """uint32[n]: the codes of symbols below levels**t. Raises CodecError where a missing code is not 0."""
    t = digits_per_symbol(levels)
    full = n // (PLANE * t)
    codes = np.empty(n, np.uint32)

    def task(start: int) -> None:
        stop = min(full, start + step)
        part = codes[start * PLANE * t : stop * PLANE * t]
        _split(symbols[start * PLANE : stop * PLANE], t, u32(levels), part)

    step = SPAN // (PLANE * t)
    each(task, range(0, full, step), n)
    codes[full * PLANE * t :] = reference.split(symbols[full * PLANE :], n - full * PLANE * t, levels)
    return codes
