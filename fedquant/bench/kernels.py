"""Each kernel against memcpy of the float32 vector that it works on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedquant import kernels
from fedquant.bench.tensor import F32
from fedquant.bench.timing import Memcpy, Operation, Timing, compare_all
from fedquant.kernels import fused, hadamard, pack, quantize, scan, topk
from fedquant.kernels.reference import fused as reference
from fedquant.keys import Key

Codes = npt.NDArray[Any]

KEY: Final = Key(1)
CLIENTS: Final = 10
ORDER: Final = 256


@dataclass(frozen=True)
class KernelRow:
    """A kernel's time over n numbers, one timing a count of threads."""

    name: str
    numbers: int
    timings: tuple[Timing, ...]


def measure(x: F32, budget: float, progress: Callable[[str], None] = lambda said: None) -> list[KernelRow]:
    """The kernels on x: float32[n]. Times of adding are of one payload."""
    rows, memcpy = [], Memcpy(x)
    for name, operation, count in _operations(x):
        progress(f"kernel {name}")
        found = compare_all(operation, memcpy, budget)
        rows.append(KernelRow(name, x.size, tuple(timing.each(count) for timing in found)))
    return rows


def _operations(x: F32) -> Iterator[tuple[str, Operation, int]]:
    """(name, what to time, how many payloads it handles)."""
    n, top, out = x.size, scan.max_abs(x), np.zeros_like(x)
    yield "max_abs", lambda: scan.max_abs(x), 1
    yield "sum_squares", lambda: scan.sum_squares(x), 1

    for bits in (2, 4, 8):
        s = 2 ** (bits - 1) - 1
        data = fused.quantize_bits(x, top, s, bits, "stochastic", KEY)

        def encode(s: int = s, bits: int = bits) -> memoryview:
            return fused.quantize_bits(x, scan.max_abs(x), s, bits, "stochastic", KEY)

        def decode(data: memoryview = data, s: int = s, bits: int = bits) -> F32:
            return fused.dequantize_bits(data, n, top, s, bits, out)

        yield f"max_abs + quantize_bits, {bits} bit", encode, 1
        yield f"dequantize_bits, {bits} bit", decode, 1
    if kernels.COMPILED:

        def plain() -> memoryview:
            return reference.quantize_bits(x, scan.max_abs(x), 7, 4, "stochastic", KEY)

        yield "quantize_bits, 4 bit, numpy", plain, 1

    payloads = [
        fused.quantize_bits(x, top, 7, 4, "stochastic", KEY.fold(sensor=sensor)) for sensor in range(CLIENTS)
    ]
    total = np.zeros_like(x)

    def add() -> None:
        fused.add_bits(total, payloads, [top] * CLIENTS, [0.1] * CLIENTS, 7, 4)

    yield f"add_bits, 4 bit, one of {CLIENTS} payloads", add, CLIENTS

    for levels in (3, 15):
        codes = quantize.to_levels(x, top, levels // 2, "stochastic", KEY)
        packed = pack.pack_radix(codes, levels)

        def join(codes: Codes = codes, levels: int = levels) -> bytes:
            return pack.pack_radix(codes, levels)

        def split(packed: bytes = packed, levels: int = levels) -> Codes:
            return pack.unpack_radix(packed, n, levels)

        def encode_radix(levels: int = levels) -> bytes:
            codes = quantize.to_levels(x, scan.max_abs(x), levels // 2)
            return pack.pack_radix(codes, levels)

        def decode_radix(packed: bytes = packed, levels: int = levels) -> F32:
            return quantize.from_levels(pack.unpack_radix(packed, n, levels), top, levels // 2)

        yield f"pack_radix, {levels} levels", join, 1
        yield f"unpack_radix, {levels} levels", split, 1
        yield f"max_abs + to_levels + pack_radix, {levels} levels", encode_radix, 1
        yield f"unpack_radix + from_levels, {levels} levels", decode_radix, 1

    yield "topk.largest, 1 %", lambda: topk.largest(x, n // 100), 1
    yield from _hadamard(x[: n // ORDER * ORDER], out)


def _hadamard(x: F32, out: F32) -> Iterator[tuple[str, Operation, int]]:
    """x: float32[p·ORDER]."""
    rows, signs, dither = x.reshape(-1, ORDER), KEY.fold(stream=1), KEY.fold(stream=2)
    scales, codes = hadamard.encode(x, ORDER, ORDER, 3, signs, dither)
    mixed = out[: x.size]

    def decode() -> None:
        hadamard.decode(scales, codes, mixed, ORDER, ORDER, 3, 1.0, signs, dither)

    yield f"hadamard.transform, order {ORDER}", lambda: hadamard.transform(rows), 1
    yield "hadamard.encode, 3 levels", lambda: hadamard.encode(x, ORDER, ORDER, 3, signs, dither), 1
    yield "hadamard.decode, 3 levels", decode, 1
