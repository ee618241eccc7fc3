"""Quantization and planar packing in one step, and its inverse; bits is 2, 4 or 8, and 2s < 2**bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fedquant.errors import CodecError
from fedquant.kernels.reference import pack, quantize
from fedquant.kernels.reference.quantize import F32, Rounding
from fedquant.keys import Key

Packed = bytes | memoryview

_CHUNK: Final = 1 << 14  # whole blocks, and its codes stay in the cache


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
    chunks = []
    for start in range(0, max(x.size, 1), _CHUNK):
        codes = quantize.to_levels(x[start : start + _CHUNK], scale, s, rounding, key, offset + start)
        chunks.append(pack.pack_bits(codes, bits))
    return memoryview(b"".join(chunks))


def check_bits(data: Packed, n: int, s: int, bits: int) -> None:
    """Raises CodecError for a wrong length, padding that is not zero or a code above 2s."""
    _unpack(data, n, s, bits)


def dequantize_bits(data: Packed, n: int, scale: float, s: int, bits: int, out: F32 | None = None) -> F32:
    """`from_levels` of the codes, in `out` where given: float32[n]. Raises as `check_bits`."""
    values = quantize.from_levels(_unpack(data, n, s, bits), scale, s)
    if out is None:
        return values
    out[:] = values
    return out


def add_bits(
    out: F32, datas: Sequence[Packed], scales: Sequence[float], weights: Sequence[float], s: int, bits: int
) -> None:
    """out += weight · dequantized, payload after payload, for data that `check_bits` has passed.

    Each term is rounded to float32 twice before it is added: the level's value, then times the weight.
    """
    for data, scale, weight in zip(datas, scales, weights, strict=True):
        out += dequantize_bits(data, out.size, scale, s, bits) * np.float32(weight)


def _unpack(data: Packed, n: int, s: int, bits: int) -> pack.Bytes:
    codes = pack.unpack_bits(bytes(data), n, bits)
    if n and codes.max() > 2 * s:
        raise CodecError(f"packed codes: a code is above 2s = {2 * s}")
    return codes
