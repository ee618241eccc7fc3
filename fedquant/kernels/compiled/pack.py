"""Integer codes to bytes in numba: the same bytes and errors as the reference, which raises the latter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedquant.kernels.compiled import radix, radix_plan
from fedquant.kernels.compiled.jit import kernel, spread
from fedquant.kernels.reference import pack as reference
from fedquant.kernels.reference.pack import LANES, PLANE, Bytes, Codes, bits_size, radix_group, radix_size

__all__ = [
    "LANES",
    "PLANE",
    "bits_size",
    "pack_bits",
    "pack_radix",
    "radix_group",
    "radix_size",
    "unpack_bits",
    "unpack_radix",
]

u8, u32 = np.uint8, np.uint32


def _flat(codes: Codes) -> Codes:
    """The codes as uint8 or uint32, contiguous and read-only: two types to compile for."""
    kind = u8 if codes.dtype.itemsize == 1 else u32
    if kind == u32 and codes.dtype not in (np.int32, u32):
        codes = codes.astype(u32)
    codes = np.ascontiguousarray(codes).view(kind)
    codes.flags.writeable = False
    return codes


def _raw(data: bytes) -> Bytes:
    raw = np.frombuffer(data, u8)
    raw.flags.writeable = False
    return raw


def word_view(raw: Bytes) -> npt.NDArray[np.uint32]:
    """The 32-bit word that starts at each byte; every machine that numba knows is little-endian."""
    return np.ndarray((max(raw.size - 3, 0),), u32, raw, 0, (1,))


@kernel
def _merge(codes, bits, out):  # type: ignore[no-untyped-def]
    per_byte = 8 // bits
    for at in range(0, out.size, PLANE):
        row = out[at : at + PLANE]
        first = codes[at * per_byte : at * per_byte + row.size]
        for j in range(first.size):
            row[j] = u8(first[j])
        for plane in range(1, per_byte):
            start, weight = at * per_byte + plane * row.size, u8(1 << plane * bits)
            part = codes[start : start + row.size]
            for j in range(part.size):
                row[j] = u8(row[j] | u8(u8(part[j]) * weight))


@kernel
def _split(data, bits, out):  # type: ignore[no-untyped-def]
    """Whether the padding is not zero."""
    per_byte, mask, padding = 8 // bits, u8((1 << bits) - 1), u8(0)
    for at in range(0, data.size, PLANE):
        row = data[at : at + PLANE]
        for plane in range(per_byte):
            start, shift = at * per_byte + plane * row.size, u8(plane * bits)
            part = out[start : start + row.size]
            for j in range(part.size):
                part[j] = u8(u8(row[j] >> shift) & mask)
            for j in range(part.size, row.size):
                padding |= u8(u8(row[j] >> shift) & mask)
    return padding != 0


def pack_bits(codes: Codes, bits: int) -> bytes:
    """Planar packing of codes in [0, 2**bits); bits in 1, 2, 4, 8."""
    codes = _flat(codes)
    out = np.empty(bits_size(codes.size, bits), u8)

    def run(a: int, b: int) -> None:
        _merge(codes[a:b], bits, out[a * bits // 8 : -(-b * bits // 8)])

    spread(run, codes.size, PLANE * 8 // bits)
    return out.tobytes()


def unpack_bits(data: bytes, n: int, bits: int) -> Bytes:
    """uint8[n]; raises CodecError for a wrong length or padding that is not zero."""
    if len(data) != bits_size(n, bits):
        return reference.unpack_bits(data, n, bits)  # raises
    raw, out = _raw(data), np.empty(n, u8)

    def run(a: int, b: int) -> bool:
        padded: bool = _split(raw[a * bits // 8 : -(-b * bits // 8)], bits, out[a:b])
        return padded

    if any(spread(run, n, PLANE * 8 // bits)):
        return reference.unpack_bits(data, n, bits)  # raises
    return out


def pack_radix(codes: Codes, levels: int) -> bytes:
    """Mixed-radix packing of codes in [0, levels); levels ≤ 2**31. One level takes no bytes."""
    if levels < 2:
        return b""
    codes = _flat(codes)
    digits, width = radix_group(levels)
    out = np.empty(radix_size(codes.size, levels), u8)
    words = word_view(out)

    def run(a: int, b: int) -> None:
        start, stop = a // digits * width, b // digits * width if b < codes.size else out.size
        if width == 1:
            radix.pack_bytes(codes[a:b], levels, digits, out[start:stop])
        else:
            step = reference.digits_per_step(levels)
            radix.pack_words(codes[a:b], levels, digits, width, step, out[start:stop], words[start:])

    spread(run, codes.size, LANES * digits)
    return out.tobytes()


def unpack_radix(data: bytes, n: int, levels: int) -> Codes:
    """uint8[n] (uint32 for over 256 levels); raises CodecError for a wrong length or what no digits give."""
    if levels < 2 or len(data) != radix_size(n, levels):
        return reference.unpack_radix(data, n, levels)  # raises, or there is nothing to unpack
    raw = _raw(data)
    out: Codes = np.empty(n, u8 if levels <= 256 else u32)
    words = word_view(raw)
    plan = radix_plan.plan(levels)
    digits, width = plan.digits, plan.width

    def run(a: int, b: int) -> bool:
        start, stop = a // digits * width, b // digits * width if b < n else raw.size
        if width == 1:
            large: bool = radix.unpack_bytes(raw[start:stop], levels, digits, out[a:b])
        else:
            large = radix.unpack_words(raw[start:stop], words[start:], *plan, out[a:b])
        return large

    if any(spread(run, n, LANES * digits)):
        return reference.unpack_radix(data, n, levels)  # raises
    return out
