"""Integer codes to bytes: planar for powers of two, mixed radix for every other count of levels.

Planar. Codes go in blocks of 256 bytes. A block of m codes of b bits has H = ⌈m·b/8⌉ bytes; byte j holds
codes j, j+H, j+2H, … from its lowest bits up; missing codes are 0. Only the last block is shorter.

Radix. Codes go in groups of k digits, the first digit the most significant, each group a little-endian
integer of w bytes; (k, w) depends on the level count alone. Of every 64·k codes, group j holds j, j+64,
j+128, …; in the rest a group holds k neighbours, and the last group takes as few bytes as it can.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedquant.errors import CodecError

Codes = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

PLANE: Final = 256  # bytes a block
LANES: Final = 64  # radix groups a block
_MAX_WIDTH: Final = 128  # bytes a radix group
_ENOUGH: Final = 1e-2  # waste below which no wider group is looked for


def bits_size(n: int, bits: int) -> int:
    """Bytes that `pack_bits` writes for n codes."""
    full, tail = divmod(n, PLANE * 8 // bits)
    return full * PLANE + -(-tail * bits // 8)


def pack_bits(codes: Codes, bits: int) -> bytes:
    """Planar packing of codes in [0, 2**bits); bits in 1, 2, 4, 8."""
    per_byte = 8 // bits
    codes = codes.astype(np.uint8)
    block = PLANE * per_byte
    full = codes.size - codes.size % block
    planes = codes[:full].reshape(-1, per_byte, PLANE)
    tail = codes[full:]
    height = bits_size(tail.size, bits)
    last = np.zeros(height * per_byte, np.uint8)
    last[: tail.size] = tail
    return _merge(planes, bits).tobytes() + _merge(last.reshape(1, per_byte, height), bits).tobytes()


def _merge(planes: Bytes, bits: int) -> Bytes:
    out = planes[:, 0, :].copy()
    for i in range(1, planes.shape[1]):
        out |= planes[:, i, :] << np.uint8(bits * i)
    return out


def unpack_bits(data: bytes, n: int, bits: int) -> Bytes:
    """uint8[n]; raises CodecError for a wrong length or padding that is not zero."""
    if len(data) != bits_size(n, bits):
        raise CodecError(f"packed codes: {len(data)} bytes, expected {bits_size(n, bits)} for {n}")
    per_byte, raw = 8 // bits, np.frombuffer(data, np.uint8)
    block = PLANE * per_byte
    full = n // block
    out = np.empty(n, np.uint8)
    out[: full * block] = _split(raw[: full * PLANE].reshape(full, PLANE), bits).reshape(-1)
    rest = raw[full * PLANE :]
    last = _split(rest.reshape(1, rest.size), bits).reshape(-1)
    tail = n - full * block
    if last[tail:].any():
        raise CodecError("packed codes: padding is not zero")
    out[full * block :] = last[:tail]
    return out


def _split(rows: Bytes, bits: int) -> Bytes:
    planes = [(rows >> np.uint8(bits * i)) & np.uint8((1 << bits) - 1) for i in range(8 // bits)]
    return np.stack(planes, axis=1)


@lru_cache(maxsize=256)
def radix_group(levels: int) -> tuple[int, int]:
    """(k, w): k digits in w bytes, the smallest w with under 1 % of waste, or the best w ≤ 128."""
    best = (0, 1)
    power, k = 1, 0
    for width in range(1, _MAX_WIDTH + 1):
        while power * levels <= 256**width:
            power, k = power * levels, k + 1
        if k * best[1] > best[0] * width:
            best = (k, width)
            if 8 * width < (1 + _ENOUGH) * k * math.log2(levels):
                break
    return best


@lru_cache(maxsize=4096)
def _tail_width(digits: int, levels: int) -> int:
    top: int = levels**digits - 1
    return (top.bit_length() + 7) // 8


def radix_size(n: int, levels: int) -> int:
    """Bytes that `pack_radix` writes for n codes: within n·log2(levels)/8·1.01 + 1."""
    if levels < 2:
        return 0
    k, width = radix_group(levels)
    return n // k * width + _tail_width(n % k, levels)


def pack_radix(codes: Codes, levels: int) -> bytes:
    """Mixed-radix packing of codes in [0, levels); levels ≤ 2**31. One level takes no bytes."""
    if levels < 2:
        return b""
    k, width = radix_group(levels)
    planar = codes.size - codes.size % (LANES * k)
    full = codes.size - codes.size % k
    blocks = codes[:planar].reshape(-1, k, LANES).transpose(0, 2, 1).reshape(-1, k)
    groups = np.concatenate([blocks, codes[planar:full].reshape(-1, k)])
    tail = codes[full:]
    last = _to_limbs(tail.reshape(1, -1), levels, _tail_width(tail.size, levels))
    return _to_limbs(groups, levels, width).tobytes() + last.tobytes()


def digits_per_step(levels: int) -> int:
    step = 1
    while levels ** (step + 1) <= 1 << 32:
        step += 1
    return step


def _to_limbs(digits: Codes, levels: int, width: int) -> Bytes:
    """Rows of digits to rows of `width` little-endian bytes, by Horner's rule on 32-bit limbs."""
    rows, k = digits.shape
    step = digits_per_step(levels)
    limbs = np.zeros((-(-width // 4), rows), np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    for start in range(0, k, step):
        part = digits[:, start : start + step].astype(np.uint64)
        carry = np.zeros(rows, np.uint64)
        for column in part.T:
            carry = carry * np.uint64(levels) + column
        factor = np.uint64(levels ** part.shape[1])
        for limb in limbs:
            limb *= factor  # (2³²−1)·2³² + 2³² fits 64 bits
            limb += carry
            np.right_shift(limb, np.uint64(32), out=carry)
            limb &= mask
    words = np.ascontiguousarray(limbs.T, dtype="<u4")
    return words.view(np.uint8).reshape(rows, 4 * len(limbs))[:, :width]


def unpack_radix(data: bytes, n: int, levels: int) -> Codes:
    """uint8[n] (uint32 for over 256 levels); raises CodecError for a wrong length or what no digits give."""
    if len(data) != radix_size(n, levels):
        raise CodecError(
            f"radix codes: {len(data)} bytes, expected {radix_size(n, levels)} for {n} of {levels} levels"
        )
    if levels < 2:
        return np.zeros(n, np.uint8)
    k, width = radix_group(levels)
    groups = n // k
    raw = np.frombuffer(data, np.uint8)
    head = _from_limbs(raw[: groups * width].reshape(groups, width), levels, k)
    tail = n % k
    rest = raw[groups * width :]
    last = _from_limbs(rest.reshape(1, rest.size), levels, tail)
    planar = groups - groups % LANES
    blocks = head[:planar].reshape(-1, LANES, k).transpose(0, 2, 1)
    codes = np.concatenate([blocks.reshape(-1), head[planar:].reshape(-1), last.reshape(-1)])
    return codes.astype(np.uint8) if levels <= 256 else codes


def _from_limbs(rows: Bytes, levels: int, k: int) -> npt.NDArray[np.uint32]:
    count, width = rows.shape
    padded = np.zeros((count, -(-width // 4) * 4), np.uint8)
    padded[:, :width] = rows
    limbs = padded.view("<u4").T.astype(np.uint64)
    step = digits_per_step(levels)
    out = np.empty((count, k), np.uint32)
    end = k
    while end > 0:
        # Horner's last step took the odd digits, so the first division gives them back.
        size = (end - 1) % step + 1
        divisor = np.uint64(levels**size)
        rest = np.zeros(count, np.uint64)
        for limb in limbs[::-1]:
            np.bitwise_or(limb, rest << np.uint64(32), out=limb)
            np.remainder(limb, divisor, out=rest)
            np.floor_divide(limb, divisor, out=limb)
        for column in range(end - 1, end - 1 - size, -1):
            out[:, column] = rest % np.uint64(levels)
            rest //= np.uint64(levels)
        end -= size
    if limbs.any():
        raise CodecError(f"radix codes: a group is not below {levels}**{k}")
    return out
