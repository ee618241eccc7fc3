"""Interleaved rANS in numba: the same bytes as the reference. Chunks are shared among threads when many."""

from __future__ import annotations

from typing import Final

import numpy as np

from fedquant.kernels.compiled.jit import each, inlined, kernel
from fedquant.kernels.reference.rans import (
    BITS,
    CHUNK,
    Words,
    assemble,
    check_end,
    check_start,
    lanes,
    layout,
)
from fedquant.kernels.reference.symbols import U32, Counts, Symbols

__all__ = ["BITS", "decode", "encode", "lanes"]

u8, u16, u32, u64, i64 = np.uint8, np.uint16, np.uint32, np.uint64, np.int64
LOW: Final = u32(1 << 15)
HALF: Final = u32(16)
MASK16: Final = u32(0xFFFF)
SLOT_BITS: Final = u32(BITS)
SLOT_MASK: Final = u32((1 << BITS) - 1)
SHIFT: Final = u32(31 - BITS)


@inlined
def _push(x, w, y, packed, inverse, shift, words):  # type: ignore[no-untyped-def]
    """Symbol y onto state x: x ← ⌊x/f⌋·2**14 + x mod f + start, after a word where x would overflow."""
    v = packed[y]
    f = u32(v >> HALF)
    words[w - 1] = u16(x & MASK16)  # written always, kept where `over`: no branch to mispredict
    over = u32(x >> SHIFT) >= f
    w = w - i64(over)
    x = u32(x >> HALF) if over else x
    q = u32(u64(u64(x) * u64(inverse[y])) >> u64(shift[y]))
    return u32(x + u32(v & MASK16) + u32(q * u32(u32(1 << BITS) - f))), w


@inlined
def _pull(x, w, symbol, packed, words):  # type: ignore[no-untyped-def]
    """The symbol on top of state x, which takes a word where it fell below 2**15."""
    slot = u32(x & SLOT_MASK)
    y = symbol[slot]
    v = packed[y]
    x = u32(u32(u32(v >> HALF) * u32(x >> SLOT_BITS)) + slot - u32(v & MASK16))
    short = x < LOW
    longer = u32(u32(x << HALF) | u32(words[w]))
    return (longer if short else x), w + u64(short), y


@kernel
def _encode(symbols, packed, inverse, shift, states, words):  # type: ignore[no-untyped-def]
    """Fills `words` from its end; returns where they begin."""
    w, n = i64(words.size), states.size
    last = symbols.size // n * n
    for i in range(symbols.size - 1, last - 1, -1):
        states[i - last], w = _push(states[i - last], w, symbols[i], packed, inverse, shift, words)
    if n == 8:  # a constant count of lanes unrolls
        for k in range(last // 8 - 1, -1, -1):
            for j in range(7, -1, -1):
                states[j], w = _push(states[j], w, symbols[k * 8 + j], packed, inverse, shift, words)
    else:
        for i in range(last - 1, -1, -1):
            states[i % n], w = _push(states[i % n], w, symbols[i], packed, inverse, shift, words)
    return w


@kernel
def _decode(words, symbol, packed, states, out):  # type: ignore[no-untyped-def]
    """Fills `out`; returns how many words it took. Takes one a symbol at most: `words` is that long."""
    w, n = u64(0), states.size
    last = out.size // n * n
    if n == 8:
        for k in range(last // 8):
            for j in range(8):
                states[j], w, out[k * 8 + j] = _pull(states[j], w, symbol, packed, words)
    else:
        for i in range(last):
            states[i % n], w, out[i] = _pull(states[i % n], w, symbol, packed, words)
    for i in range(last, out.size):
        states[i - last], w, out[i] = _pull(states[i - last], w, symbol, packed, words)
    return w


def _packed(freq: Counts) -> U32:
    """Frequency (high half) and start (low half) of 256 symbols."""
    out = np.zeros(256, np.uint32)
    out[: freq.size] = freq << 16 | np.cumsum(freq) - freq
    return out


def encode(symbols: Symbols, freq: Counts) -> bytes:
    """The stream of uint8[m], where freq[y] > 0 for every symbol and all sum to 2**14."""
    # ⌊x/f⌋ = x·⌈2**(31+s)/f⌉ >> (31+s) for x < 2**31, where f ≤ 2**s < 2f: the excess stays below 1/f.
    s = np.frexp(np.maximum(freq, 1) - 0.5)[1].astype(np.int64)
    inverse, shift = np.zeros(256, np.uint32), np.zeros(256, np.uint8)
    inverse[: freq.size] = np.where(freq > 0, -(-(1 << (31 + s)) // np.maximum(freq, 1)), 0)
    shift[: freq.size] = 31 + s
    packed = _packed(freq)

    def task(start: int) -> tuple[U32, Words]:
        part = symbols[start : start + CHUNK]
        states, words = np.full(lanes(symbols.size), LOW), np.empty(part.size, np.uint16)
        return states, words[_encode(part, packed, inverse, shift, states, words) :].copy()

    return assemble(each(task, range(0, symbols.size, CHUNK), symbols.size))


def decode(data: bytes, m: int, freq: Counts) -> Symbols:
    """uint8[m] of a stream. Raises CodecError for a damaged one."""
    words, starts, ends = layout(data, m)
    packed, width = _packed(freq), lanes(m)
    symbol = np.repeat(np.arange(freq.size, dtype=np.uint8), freq)
    out = np.empty(m, np.uint8)

    def task(start: int) -> None:
        c = start // CHUNK
        at = int(starts[c]) + 2 * width
        states = words[at - 2 * width : at].view(np.uint32).copy()
        check_start(states)
        taken = _decode(words[at:], symbol, packed, states, out[start : start + CHUNK])
        check_end(states, np.array([at + int(taken)]), ends[c : c + 1])

    each(task, range(0, m, CHUNK), m)
    return out
