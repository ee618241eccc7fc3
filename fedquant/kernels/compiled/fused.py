"""Quantization and planar packing in one pass over memory, and its inverse, in numba."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fedquant.kernels.compiled.jit import kernel, spread
from fedquant.kernels.compiled.quantize import code, grid, place
from fedquant.kernels.compiled.rng import unit
from fedquant.kernels.reference import fused as reference
from fedquant.kernels.reference.fused import Packed
from fedquant.kernels.reference.pack import PLANE, bits_size
from fedquant.kernels.reference.quantize import F32, Rounding, step
from fedquant.keys import Key

__all__ = ["Packed", "add_bits", "check_bits", "dequantize_bits", "quantize_bits"]

f32, i32, u8, u32 = np.float32, np.int32, np.uint8, np.uint32

RADIX: Final = np.array([2**bits for bits in range(9)], i32)  # a shift by a variable would take 64 bits
_ROWS: Final = 4096  # bytes that stay in the first-level cache
_SPAN: Final = 1 << 17  # numbers that stay in a core's cache while payload after payload is added


@kernel
def quantize_planar(x, out, bits, offset, scale, gain, shift, s, stochastic, low, high):  # type: ignore[no-untyped-def]
    per_byte, radix = 8 // bits, RADIX[bits]
    room, sums = np.empty(PLANE * per_byte, f32), np.empty(PLANE, i32)
    for at in range(0, out.size, PLANE):
        row = out[at : at + PLANE]
        start, height = at * per_byte, row.size
        block, total = x[start : start + PLANE * per_byte], sums[:height]
        levels = room[: block.size]
        place(block, levels, scale, s, gain)
        total[:] = i32(0)
        for plane in range(per_byte - 1, -1, -1):  # Horner's rule: the last plane has the highest bits
            part = levels[plane * height : (plane + 1) * height]
            i = u32(offset + start + plane * height)
            if stochastic:
                for j in range(part.size):
                    total[j] = i32(i32(total[j] * radix) + code(part[j], unit(i, low, high), s))
                    i = u32(i + u32(1))
            else:
                for j in range(part.size):
                    total[j] = i32(i32(total[j] * radix) + code(part[j], shift, s))
        for j in range(height):
            row[j] = u8(total[j])


@kernel
def padded(data, n, bits):  # type: ignore[no-untyped-def]
    """Whether a code that is missing from the last block is not 0."""
    tail = n % (PLANE * 8 // bits)
    height, mask = -(-tail * bits // 8), (1 << bits) - 1
    row, extra = data[data.size - height :], 0
    for i in range(tail, height * 8 // bits):
        extra |= row[i % height] >> i // height * bits & mask
    return extra != 0


@kernel
def has_above(data, bits, limit):  # type: ignore[no-untyped-def]
    """Whether a code of whole bytes is above `limit`."""
    for at in range(0, data.size, _ROWS):
        row = data[at : at + _ROWS]
        for shift in range(0, 8, bits):
            mask, top = u8(((1 << bits) - 1) << shift), u8(0)
            for j in range(row.size):
                top = max(top, u8(row[j] & mask))
            if top >> shift > limit:
                return True
    return False


@kernel
def dequantize_planar(data, out, bits, s, step):  # type: ignore[no-untyped-def]
    mask, per_byte = i32((1 << bits) - 1), 8 // bits
    for at in range(0, data.size, PLANE):
        row = data[at : at + PLANE]
        for plane in range(per_byte):
            start, shift = at * per_byte + plane * row.size, i32(plane * bits)
            part = out[start : start + row.size]
            for j in range(part.size):
                part[j] = f32(i32((i32(row[j]) >> shift & mask) - i32(s))) * step


@kernel
def _add(data, out, bits, s, step, weight):  # type: ignore[no-untyped-def]
    mask, per_byte = i32((1 << bits) - 1), 8 // bits
    for at in range(0, data.size, PLANE):
        row = data[at : at + PLANE]
        for plane in range(per_byte):
            start, shift = at * per_byte + plane * row.size, i32(plane * bits)
            part = out[start : start + row.size]
            for j in range(part.size):
                part[j] += f32(i32((i32(row[j]) >> shift & mask) - i32(s))) * step * weight


def quantize_bits(
    x: F32,
    scale: float,
    s: int,
    bits: int,
    rounding: Rounding = "floor",
    key: Key | None = None,
    offset: int = 0,
) -> memoryview:
    """The bytes of `pack_bits` of the `to_levels` of x: float32[n]."""
    known = grid(scale, s, rounding, key, x.size, offset)
    x, out = np.ascontiguousarray(x), np.empty(bits_size(x.size, bits), u8)

    def run(a: int, b: int) -> None:
        quantize_planar(x[a:b], out[a * bits // 8 : -(-b * bits // 8)], bits, offset + a, *known)

    spread(run, x.size, PLANE * 8 // bits)
    return out.data.toreadonly()


def check_bits(data: Packed, n: int, s: int, bits: int) -> None:
    """Raises CodecError for a wrong length, padding that is not zero or a code above 2s."""
    raw = np.frombuffer(data, u8)
    if raw.size != bits_size(n, bits) or padded(raw, n, bits) or has_above(raw, bits, 2 * s):
        reference.check_bits(data, n, s, bits)  # says what is wrong


def dequantize_bits(data: Packed, n: int, scale: float, s: int, bits: int, out: F32 | None = None) -> F32:
    """`from_levels` of the codes, in `out` where given: float32[n]. Raises as `check_bits`."""
    check_bits(data, n, s, bits)
    raw, size = np.frombuffer(data, u8), step(scale, s)
    values = np.empty(n, f32) if out is None else out

    def run(a: int, b: int) -> None:
        dequantize_planar(raw[a * bits // 8 : -(-b * bits // 8)], values[a:b], bits, s, size)

    spread(run, n, PLANE * 8 // bits)
    return values


def add_bits(
    out: F32, datas: Sequence[Packed], scales: Sequence[float], weights: Sequence[float], s: int, bits: int
) -> None:
    """out += weight · dequantized, payload after payload, for data that `check_bits` has passed.

    Each term is rounded to float32 twice before it is added: the level's value, then times the weight.
    """
    terms = [
        (np.frombuffer(data, u8), step(scale, s), f32(weight))
        for data, scale, weight in zip(datas, scales, weights, strict=True)
    ]

    def run(a: int, b: int) -> None:
        for start in range(a, b, _SPAN):
            stop = min(start + _SPAN, b)
            part = out[start:stop]
            for raw, size, weight in terms:
                _add(raw[start * bits // 8 : -(-stop * bits // 8)], part, bits, s, size, weight)

    spread(run, out.size, PLANE * 8 // bits)
