"""Frequencies of symbols: normalized, as a model of what codes cost, and as tables on the wire.

Integers alone decide here: the same counts give the same tables on every machine.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from fedquant.errors import CodecError
from fedquant.kernels import rans, symbols
from fedquant.kernels.reference.symbols import Counts

DIGITS, SYMBOLS = 0x10, 0x20  # modes of `entropy`: what a table counts
_FRACTION: Final = 12  # logarithms are in units of 2**-12 bit


def normalize(weights: Counts, bits: int) -> Counts:
    """Frequencies that sum to 2**bits, in proportion to weights < 2**46, at least 1 where a weight is not 0.

    Weights too light for 1 get 1; the rest share what remains, rounded by largest remainder, the first of
    equals first. All in integers: the decoder does the same.
    """
    heavy = weights > 0
    freq = heavy.astype(np.int64)
    while True:
        room = (1 << bits) - int(np.count_nonzero(weights)) + int(np.count_nonzero(heavy))
        mass = int(weights[heavy].sum())
        light = heavy & (weights * room < mass)
        if not light.any():
            break
        heavy &= ~light
    share, rest = np.divmod(weights[heavy] * room, mass)
    share[np.argsort(-rest, kind="stable")[: room - int(share.sum())]] += 1
    freq[heavy] = share
    return freq


def symbol_freq(table: Counts, t: int) -> Counts:
    """Frequencies of symbols of t independent digits; of the table itself where t is 1."""
    product = table
    for _ in range(t - 1):
        product = np.outer(table, product).reshape(-1)
        excess = max(0, int(product.max()).bit_length() - 31)
        product = np.maximum(product >> excess, product > 0)
    return normalize(product, rans.BITS)


@lru_cache(maxsize=1)
def _log2() -> Counts:
    """⌊2**12·log2 f⌋ of f in 0 … 2**14, by repeated squaring; of 0, −50 bits."""
    f = np.arange(1, (1 << rans.BITS) + 1).astype(np.uint64)
    exponent = np.frexp(f.astype(np.float64))[1].astype(np.uint64) - np.uint64(1)
    out, x = exponent, f << np.uint64(31) >> exponent  # 2**31 ≤ x < 2**32
    for _ in range(_FRACTION):
        x = x * x >> np.uint64(31)
        bit = x >> np.uint64(32)
        x >>= bit
        out = out << np.uint64(1) | bit
    return np.append(np.int64(-50 << _FRACTION), out.astype(np.int64))


def costs(freq: Counts) -> Counts:
    """What a symbol of each frequency takes, in units of 2**-12 bit."""
    costs: Counts = (rans.BITS << _FRACTION) - _log2()[freq]
    return costs


def code_bits(counts: Counts, freq: Counts) -> int:
    return int(counts @ costs(freq)) >> _FRACTION


@lru_cache(maxsize=64)
def multiplicity(levels: int) -> Counts:
    """int64[levels**t, levels]: how often each digit is in each symbol."""
    t = symbols.digits_per_symbol(levels)
    joined = np.arange(levels**t)
    digits = joined[:, None] // levels ** np.arange(t) % levels
    often: Counts = (digits[:, :, None] == np.arange(levels)).sum(axis=1)
    return often


def model(counts: Counts, levels: int) -> tuple[bytes, Counts, int]:
    """(mode and table, symbol frequencies, bytes without the states) of the smallest model of the counts."""
    t = symbols.digits_per_symbol(levels)
    counts = counts[: levels**t]
    kinds = [(DIGITS, t, counts @ multiplicity(levels))]
    if t > 1 and int(counts.sum()) > 256:
        kinds.append((SYMBOLS, 1, counts))
    best = None
    for mode, power, weights in kinds:
        for q in precisions(weights):
            table = normalize(weights, q)
            freq = symbol_freq(table, power)
            head = bytes([mode | q]) + write_table(table, q)
            size = len(head) + code_bits(counts, freq) // 8
            if best is None or size < best[2]:
                best = (head, freq, size)
    assert best is not None
    return best


def precisions(weights: Counts) -> list[int]:
    """Precisions worth trying: rounding at 2**-q costs as n·4**−q, and a table grows with q."""
    least = max(1, (int(np.count_nonzero(weights)) - 1).bit_length())
    middle = int(weights.sum()).bit_length() // 2
    return sorted({min(rans.BITS, max(least, middle + more)) for more in (1, 3)})


def write_table(freq: Counts, q: int) -> bytes:
    values, left, i = freq.tolist(), 1 << q, 0
    nibbles: list[int] = []
    while left and i < len(values) - 1:
        value = values[i]
        if value == 0:
            run = next(r for r in range(1, 17) if r == 16 or values[i + r])
            nibbles += (0, run - 1)
            i += run
            continue
        left -= value
        i += 1
        while value >= 8:
            nibbles.append(value & 7 | 8)
            value >>= 3
        nibbles.append(value)
    nibbles += [0] * (len(nibbles) % 2)
    return bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))


def read_table(data: bytes, at: int, size: int, q: int) -> tuple[Counts, int]:
    """(int64[size], where it ends). Raises CodecError unless it sums to 2**q."""
    freq, left, i, at = np.zeros(size, np.int64), 1 << q, 0, 2 * at

    def nibble() -> int:
        nonlocal at
        if at >= 2 * len(data):
            raise CodecError("entropy: cut off in its table")
        value = data[at // 2] >> 4 * (at % 2) & 15
        at += 1
        return value

    while left and i < size - 1:
        value, digit = 0, nibble()
        if digit == 0:
            i += nibble() + 1
            continue
        shift = 0
        while digit & 8 and shift < 12:
            value |= (digit & 7) << shift
            shift += 3
            digit = nibble()
        value |= digit << shift
        if digit == 0 or value > left:
            raise CodecError(f"entropy: table number {value} is not canonical, or exceeds the sum 2**{q}")
        freq[i] = value
        left -= value
        i += 1
    if left and i >= size:
        raise CodecError(f"entropy: the table does not sum to 2**{q}")
    if left:
        freq[i] = left
    if at % 2 and nibble():
        raise CodecError("entropy: a table's padding is not zero")
    return freq, at // 2


def varint(value: int) -> bytes:
    out = []
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value below 2**35, where it ends)."""
    value = 0
    for i, byte in enumerate(data[at : at + 5]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            if byte == 0 and i > 0:
                break
            return value, at + i + 1
    raise CodecError("entropy: a varint is cut off, too long, or has a zero at its end")
