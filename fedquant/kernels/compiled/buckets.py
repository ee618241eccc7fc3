"""Many small groups in one call: the loops of `kernels.buckets` in numba, the same bytes and numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.kernels.compiled import fused, quantize, radix, radix_plan, scan
from fedquant.kernels.compiled.jit import each, inlined, kernel
from fedquant.kernels.compiled.pack import word_view
from fedquant.kernels.reference import rng
from fedquant.kernels.reference.pack import digits_per_step, radix_group
from fedquant.kernels.reference.quantize import code_type, step
from fedquant.kernels.threads import get_threads
from fedquant.keys import Key

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
f32, u8 = np.float32, np.uint8

_PIECES: Final = 4  # a thread, as in `jit.spread`

_step = inlined(step)


def _spread(run: Callable[[int, int], bool | None], bounds: I64) -> bool:
    """run(first, last) over all groups, among the threads there are; whether any returned true."""
    count = bounds.size - 1
    size = -(-count // (get_threads() * _PIECES))
    found = each(lambda g: run(g, min(g + size, count)), range(0, count, size), int(bounds[-1] - bounds[0]))
    return any(found)


@kernel
def _max_abs(x, bounds, out):  # type: ignore[no-untyped-def]
    for g in range(out.size):
        out[g] = scan.max_abs32(x[bounds[g] : bounds[g + 1]])


@kernel
def _sum_squares(x, bounds, out):  # type: ignore[no-untyped-def]
    for g in range(out.size):
        out[g] = scan.lane_sum(x[bounds[g] : bounds[g + 1]], True)


@kernel
def _encode_bits(x, bounds, places, scales, s, bits, low, high, out):  # type: ignore[no-untyped-def]
    for g in range(scales.size):
        if scales[g] > 0:
            a, b = bounds[g], bounds[g + 1]
            into, scale = out[places[g] : places[g + 1]], np.float64(scales[g])
            fused.quantize_planar(x[a:b], into, bits, a, scale, f32(1), f32(0), s, True, low, high)


@kernel
def _encode_radix(x, bounds, places, scales, s, group, step, low, high, room, out, words):  # type: ignore[no-untyped-def]
    digits, width = group
    for g in range(scales.size):
        if scales[g] > 0:
            a, b = bounds[g], bounds[g + 1]
            codes, into = room[: b - a], out[places[g] : places[g + 1]]
            quantize.levels_of(x[a:b], codes, a, np.float64(scales[g]), f32(1), f32(0), s, True, low, high)
            if width == 1:
                radix.pack_bytes(codes, 2 * s + 1, digits, into)
            else:
                radix.pack_words(codes, 2 * s + 1, digits, width, step, into, words[places[g] :])


@kernel
def _decode_bits(data, bounds, places, scales, s, bits, out):  # type: ignore[no-untyped-def]
    """Whether bytes of a group are not such that are written."""
    for g in range(scales.size):
        if scales[g] > 0:
            a, b, raw = bounds[g], bounds[g + 1], data[places[g] : places[g + 1]]
            if fused.padded(raw, b - a, bits) or fused.has_above(raw, bits, 2 * s):
                return True
            fused.dequantize_planar(raw, out[a:b], bits, s, _step(np.float64(scales[g]), s))
    return False


@kernel
def _decode_radix(data, words, bounds, places, scales, s, plan, room, out):  # type: ignore[no-untyped-def]
    """Whether bytes of a group are not such that are written."""
    large = False
    for g in range(scales.size):
        if scales[g] > 0:
            a, b, raw = bounds[g], bounds[g + 1], data[places[g] : places[g + 1]]
            codes = room[: b - a]
            if plan.width == 1:
                large |= radix.unpack_bytes(raw, 2 * s + 1, plan.digits, codes)
            else:
                large |= radix.unpack_words(
                    raw,
                    words[places[g] :],
                    plan.digits,
                    plan.width,
                    plan.half,
                    plan.kept,
                    plan.powers,
                    plan.reciprocal,
                    plan.start,
                    plan.divisors,
                    codes,
                )
            quantize.values_of(codes, out[a:b], s, _step(np.float64(scales[g]), s))
    return large


def max_abs(x: F32, bounds: I64) -> F32:
    """float32[g]."""
    x, out = np.ascontiguousarray(x), np.empty(bounds.size - 1, f32)
    _spread(lambda a, b: _max_abs(x, bounds[a : b + 1], out[a:b]), bounds)
    return out


def sum_squares(x: F32, bounds: I64) -> F64:
    """float64[g]."""
    x, out = np.ascontiguousarray(x), np.empty(bounds.size - 1, np.float64)
    _spread(lambda a, b: _sum_squares(x, bounds[a : b + 1], out[a:b]), bounds)
    return out


def encode(x: F32, bounds: I64, scales: F32, s: int, bits: int, key: Key, sizes: I64) -> memoryview:
    """The bytes of all groups; sizes: int64[g], how many each has."""
    low, high = rng.halves(key, int(bounds[-1] - bounds[0]), int(bounds[0]))
    x, places = np.ascontiguousarray(x), _places(sizes)
    out = np.empty(int(places[-1]), u8)
    words, longest = word_view(out), int(np.diff(bounds).max())

    def run(a: int, b: int) -> None:
        own = bounds[a : b + 1], places[a : b + 1], scales[a:b], s
        if bits:
            _encode_bits(x, *own, bits, low, high, out)
        else:
            room = np.empty(longest, code_type(s))
            group = radix_group(2 * s + 1)
            _encode_radix(x, *own, group, digits_per_step(2 * s + 1), low, high, room, out, words)

    _spread(run, bounds)
    return out.data.toreadonly()


def decode(data: memoryview, bounds: I64, scales: F32, s: int, bits: int, sizes: I64, out: F32) -> bool:
    """Whether all bytes are such that `encode` writes; if not, out is of no use."""
    raw, places = np.frombuffer(data, u8), _places(sizes)
    words, longest = word_view(raw), int(np.diff(bounds).max())

    def run(a: int, b: int) -> bool:
        own = bounds[a : b + 1], places[a : b + 1], scales[a:b], s
        if bits:
            bad: bool = _decode_bits(raw, *own, bits, out)
        else:
            room = np.empty(longest, code_type(s))
            bad = _decode_radix(raw, words, *own, radix_plan.plan(2 * s + 1), room, out)
        return bad

    return not _spread(run, bounds)


def _places(sizes: I64) -> I64:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
