"""The kernels of mixed radix packing: the 64 groups of a block lie side by side, and a step works on all."""

from __future__ import annotations

from typing import Final

import numpy as np

from fedquant.kernels.compiled.jit import inlined, kernel
from fedquant.kernels.reference.pack import LANES

u8, u16, u32, u64 = np.uint8, np.uint16, np.uint32, np.uint64

_MASK: Final = u64(0xFFFFFFFF)
_HALF: Final = u64(32)


@inlined
def _gather(codes, digits, room):  # type: ignore[no-untyped-def]
    """Groups of neighbours to lanes; a short group is one whose first digits are 0."""
    room[:] = 0
    for lane in range(-(-codes.size // digits)):
        group = codes[lane * digits : (lane + 1) * digits]
        first = digits - group.size
        for t in range(group.size):
            room[(first + t) * LANES + lane] = group[t]


@inlined
def _scatter(room, digits, codes):  # type: ignore[no-untyped-def]
    """The inverse of `_gather`. Whether a digit that the short group lacks is not 0."""
    extra = False
    for lane in range(-(-codes.size // digits)):
        group = codes[lane * digits : (lane + 1) * digits]
        first = digits - group.size
        for t in range(first):
            extra |= room[t * LANES + lane] != 0
        for t in range(group.size):
            group[t] = room[(first + t) * LANES + lane]
    return extra


@kernel
def pack_bytes(codes, m, digits, out):  # type: ignore[no-untyped-def]
    """Groups of one byte."""
    size, m = LANES * digits, u8(m)
    room, value = np.empty(size, codes.dtype), np.empty(LANES, u8)
    for at in range(0, codes.size, size):
        block = codes[at : at + size]
        if block.size < size:
            _gather(block, digits, room)
            block = room
        row = block[:LANES]
        for j in range(LANES):
            value[j] = u8(row[j])
        for t in range(1, digits):
            row = block[t * LANES : (t + 1) * LANES]
            for j in range(LANES):
                value[j] = u8(u8(value[j] * m) + u8(row[j]))
        group = out[at // digits : at // digits + LANES]
        for j in range(group.size):
            group[j] = value[j]


@kernel
def unpack_bytes(data, m, digits, out):  # type: ignore[no-untyped-def]
    """Whether a group is too large. For m in 2, 3, 4, 16: x·⌈512/m⌉ >> 9 = ⌊x/m⌋ for every byte x."""
    size, magic, m = LANES * digits, u16(-(-512 // m)), u16(m)
    room, value = np.empty(size, out.dtype), np.empty(LANES, u16)
    value[:] = 0
    large = u16(0)
    for at in range(0, out.size, size):
        block = out[at : at + size]
        target = block if block.size == size else room
        group = data[at // digits : at // digits + LANES]
        for j in range(group.size):
            value[j] = u16(group[j])
        for t in range(digits - 1, 0, -1):
            row = target[t * LANES : (t + 1) * LANES]
            for j in range(LANES):
                quotient = u16(u16(value[j] * magic) >> u16(9))
                row[j] = u16(value[j] - u16(quotient * m))
                value[j] = quotient
        row = target[:LANES]
        for j in range(LANES):
            row[j] = value[j]
            large |= u16(value[j] >= m)
        if block.size < size:
            large |= u16(_scatter(room, digits, block))
    return large != 0


@inlined
def _scale(limbs, first, stop, factor, carry):  # type: ignore[no-untyped-def]
    """limbs[first:stop]·factor + carry, in place; carry becomes what does not fit."""
    f = u64(u32(factor))
    for i in range(first, stop):
        limb = limbs[i]
        for j in range(LANES):
            wide = u64(u64(u64(u32(limb[j])) * f) + carry[j])  # (2³²−1)² + 2³² fits 64 bits
            limb[j], carry[j] = u64(wide & _MASK), u64(wide >> _HALF)


@kernel
def pack_words(codes, m, digits, width, step, out, words):  # type: ignore[no-untyped-def]
    """Groups of more than one byte, by Horner's rule, `step` digits below 2**32 at a time."""
    size, count, factor = LANES * digits, -(-width // 4), u32(m)
    limbs, carry = np.zeros((count, LANES), u64), np.empty(LANES, u64)
    room, value = np.empty(size, codes.dtype), np.empty(LANES, u32)
    for at in range(0, codes.size, size):
        block = codes[at : at + size]
        if block.size < size:
            _gather(block, digits, room)
            block = room
        for first in range(0, digits, step):
            row, power = block[first * LANES : (first + 1) * LANES], u64(m)
            for j in range(LANES):
                value[j] = u32(row[j])
            for t in range(first + 1, min(first + step, digits)):
                row, power = block[t * LANES : (t + 1) * LANES], u64(power * u64(m))
                for j in range(LANES):
                    value[j] = u32(u32(value[j] * factor) + u32(row[j]))
            for j in range(LANES):
                carry[j] = u64(value[j])
            known = min(first // step, count)
            _scale(limbs, 0, known, power, carry)
            if known < count:
                limb = limbs[known]
                for j in range(LANES):
                    limb[j] = carry[j]
        base = at // digits * width
        if base + LANES * width + 3 <= out.size:
            # From the last word down: what it spills into the next group, that group's words cover.
            for i in range(count - 1, -1, -1):
                limb, target = limbs[i], words[base + 4 * i :]
                for j in range(LANES):
                    target[j * width] = u32(limb[j])
        else:
            for lane in range(LANES):
                group = out[base + lane * width : base + (lane + 1) * width]
                for i in range(group.size):
                    group[i] = u8(limbs[i // 4, lane] >> u64(8 * (i % 4)))


@inlined
def _load(data, words, base, width, limbs):  # type: ignore[no-untyped-def]
    """The groups of a block to limbs[i, lane]."""
    count = limbs.shape[0]
    if base + LANES * width + 3 <= data.size:
        for i in range(count):
            limb, source = limbs[i], words[base + 4 * i :]
            for j in range(LANES):
                limb[j] = u64(source[j * width])
        unused = u64(32 * count - 8 * width)
        limb = limbs[count - 1]
        for j in range(LANES):
            limb[j] &= _MASK >> unused
    else:
        limbs[:] = u64(0)
        for lane in range(LANES):
            group = data[base + lane * width : base + (lane + 1) * width]
            for i in range(group.size):
                limbs[i // 4, lane] |= u64(group[i]) << u64(8 * (i % 4))


@inlined
def _multiply(limbs, factor, skipped, carry, out):  # type: ignore[no-untyped-def]
    """out += limbs·factor, without the products below diagonal `skipped`, which becomes row 0.

    The rows of out that a carry comes to first are taken to be 0: `radix_plan.Plan.start` ends below them.
    """
    for i in range(limbs.shape[0]):
        limb = limbs[i]
        for j in range(LANES):
            carry[j] = u64(0)
        for q in range(max(skipped - i, 0), factor.size):
            row, f = out[i + q - skipped], u64(u32(factor[q]))
            for j in range(LANES):
                wide = u64(u64(u64(u64(u32(limb[j])) * f) + row[j]) + carry[j])
                row[j], carry[j] = u64(wide & _MASK), u64(wide >> _HALF)
        row = out[i + factor.size - skipped]
        for j in range(LANES):
            row[j] = carry[j]


@inlined
def _digits(value, divisors, half, first, taken, halves, out):  # type: ignore[no-untyped-def]
    """The `taken` digits of value, to rows first … of out."""
    power, cut, cut_shift = u32(divisors[0]), u64(u32(divisors[1])), divisors[2] & u64(63)
    m, magic, shift = u16(divisors[3]), u16(divisors[4]), u16(divisors[5] - u64(16))
    upper, lower = halves[0], halves[1]
    for j in range(LANES):
        x = u32(value[j])
        high = u32(u64(u64(x) * cut) >> cut_shift)
        upper[j], lower[j] = u16(high), u16(x - u32(high * power))
    middle = first + max(taken - half, 0)
    for side in range(2):
        rest = halves[side]
        start, stop = (middle, first + taken) if side else (first, middle)
        for t in range(stop - 1, start, -1):
            row = out[t * LANES : (t + 1) * LANES]
            for j in range(LANES):
                product = u32(u32(rest[j]) * u32(magic))
                quotient = u16(u16(product >> u32(16)) >> u16(shift & u16(15)))
                row[j] = u16(rest[j] - u16(quotient * m))
                rest[j] = quotient
        row = out[start * LANES : start * LANES + LANES * min(stop - start, 1)]
        for j in range(row.size):
            row[j] = rest[j]


@kernel
def unpack_words(data, words, digits, width, half, kept, powers, reciprocal, start, divisors, out):  # type: ignore[no-untyped-def]
    """Whether a group is too large. See `radix_plan.Plan`."""
    size, count, places, step = LANES * digits, -(-width // 4), kept[0], max(2 * half, 1)
    limbs, carry = np.empty((count, LANES), u64), np.empty(LANES, u64)
    fraction = np.empty((start.size, LANES), u64)  # the guard; F in `places` limbs; its integer part
    room, halves = np.empty(size, out.dtype), np.empty((2, LANES), u16)
    large = u64(0)
    for at in range(0, out.size, size):
        block = out[at : at + size]
        target = block if block.size == size else room
        _load(data, words, at // digits * width, width, limbs)
        if powers.size > 1:
            for i in range(start.size):
                row, value = fraction[i], start[i]
                for j in range(LANES):
                    row[j] = value
            _multiply(limbs, reciprocal, count - 1, carry, fraction)
            for i in range(places + 1, start.size):
                row = fraction[i]
                for j in range(LANES):
                    large |= row[j]
        else:
            for j in range(LANES):
                large |= u64(limbs[0, j] >= powers[0])
        for n in range(powers.size):
            first = n * step
            if powers.size > 1:
                for j in range(LANES):
                    carry[j] = u64(0)
                _scale(fraction, places + 1 - kept[n], places + 1, powers[n], carry)
            else:
                for j in range(LANES):
                    carry[j] = limbs[0, j]
            if half > 0:
                _digits(carry, divisors, half, first, min(step, digits - first), halves, target)
            else:
                row = target[first * LANES : (first + 1) * LANES]
                for j in range(LANES):
                    row[j] = u32(carry[j])
        if block.size < size:
            large |= u64(_scatter(room, digits, block))
    return large != 0
