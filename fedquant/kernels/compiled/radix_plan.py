"""What the kernels of mixed radix packing compute with: limbs, reciprocals, divisions by multiplication."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedquant.kernels.reference.pack import radix_group

u64 = np.uint64


class Plan(NamedTuple):
    """How the groups of one count of levels m are computed: T = m**digits; limbs have 32 bits.

    Packing is Horner's rule, `step` digits at a time. Unpacking takes the digits of N from the top: with
    F = (N + 1/2)/T, the integer part of m**step · F is the first `step` digits and the rest of it the F of
    the digits that follow. F is kept to 2**-10/T or better (`kept` limbs before each step), which the errors
    below never use up, since they add to less than 1/2 of 1/T:
      - N·reciprocal is short of N/T by less than (limbs of N + 2) units of the last place of F: one for the
        reciprocal, rounded down, one for the guard limb, and one for each diagonal of products left out;
      - dropping a limb once fewer are needed costs one unit of the last place that stays.
    So N ≥ T, too, shows: the integer part of F is not 0.

    A step's digits (below 2**32) are cut in two halves below 2**16 of at most `half` digits, these in single
    ones, each by x·magic >> shift, which is ⌊x/d⌋ for all x that occur (`_magic` checks).
    """

    digits: int
    width: int
    half: int
    kept: npt.NDArray[np.int64]
    powers: npt.NDArray[np.uint64]  # levels**(digits that each step takes)
    reciprocal: npt.NDArray[np.uint64]  # limbs of ⌊2**(32·(kept[0] + limbs of N))/T⌋
    start: npt.NDArray[np.uint64]  # limbs of 1/(2T), from the guard on, as many as the product has
    divisors: npt.NDArray[np.uint64]  # levels**half, its magic and shift; levels, its magic and shift


def _magic(d: int, below: int, bits: int) -> tuple[int, int] | None:
    """(magic, shift) with magic < 2**bits and x·magic >> shift = ⌊x/d⌋ for 0 ≤ x < below."""
    for shift in range(bits, 64):
        magic = -(-(1 << shift) // d)
        if magic >> bits:
            return None
        if (below - 1) * (magic * d - (1 << shift)) < 1 << shift:
            return magic, shift
    return None


def _limbs(value: int, least: int = 0) -> npt.NDArray[np.uint64]:
    count = max(-(-value.bit_length() // 32), least)
    return np.array([value >> 32 * i & 0xFFFFFFFF for i in range(count)], u64)


@lru_cache(maxsize=256)
def plan(m: int) -> Plan:
    digits, width = radix_group(m)
    half, divisors = 0, (0, 0, 0, 0, 0, 0)
    for h in range(1, 16):
        cut = _magic(m**h, m ** (2 * h), 32) if m**h < 1 << 16 else None
        single = _magic(m, m**h, 16) if h > 1 else (0, 16)  # a half of one digit is that digit
        if cut and single:
            half, divisors = h, (m**h, *cut, m, *single)
    step = max(2 * half, 1)
    powers = [m ** min(step, digits - at) for at in range(0, digits, step)]
    total = m**digits
    kept, rest = [], total
    for power in powers:
        kept.append(-(-((rest - 1).bit_length() + 10) // 32))
        rest //= power
    scale = 1 << 32 * kept[0]
    reciprocal = _limbs((scale << 32 * -(-width // 4)) // total)
    start = _limbs(scale // (2 * total) << 32, reciprocal.size + 1)
    counts = np.array(kept), np.array(powers, u64)
    return Plan(digits, width, half, *counts, reciprocal, start, np.array(divisors, u64))
