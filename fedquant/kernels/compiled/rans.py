"""Entropy coding in numba: the same bytes as the reference. Chunks are shared among threads when many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from fedquant.errors import CodecError
from fedquant.kernels.compiled.jit import inlined, kernel
from fedquant.kernels.reference import rans as reference
from fedquant.kernels.reference.rans import (
    BITS,
    CHUNK,
    FINEST,
    PLANE,
    assemble,
    check_codes,
    check_end,
    check_raw,
    check_start,
    digits_per_symbol,
    lanes,
    layout,
    raw_bits,
    symbols_of,
    token_limit,
)
from fedquant.kernels.threads import get_threads

__all__ = [
    "BITS",
    "FINEST",
    "check_codes",
    "decode",
    "detokenize",
    "digits_per_symbol",
    "encode",
    "join",
    "lanes",
    "raw_bits",
    "split",
    "symbols_of",
    "token_counts",
    "token_limit",
    "tokenize",
]

Codes = npt.NDArray[Any]
Symbols = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
Result = TypeVar("Result")

MANY: Final = 1 << 20  # codes or symbols worth more than one thread
SPAN: Final = 1 << 18  # codes a task

u8, u16, u32, u64, i32, i64 = np.uint8, np.uint16, np.uint32, np.uint64, np.int32, np.int64
LOW: Final = u32(1 << 15)
HALF: Final = u32(16)
MASK16: Final = u32(0xFFFF)
SLOT_BITS: Final = u32(BITS)
SLOT_MASK: Final = u32((1 << BITS) - 1)
SHIFT: Final = u32(31 - BITS)


def _spread(task: Callable[[int], Result], items: Sequence[int], total: int) -> list[Result]:
    """task(i) for every item. Threads live for one call: they survive no fork, and stall nobody else."""
    workers = min(get_threads(), len(items))
    if total < MANY or workers < 2:
        return [task(i) for i in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(task, items))


# ---- codes to symbols


@kernel
def _join(codes, t, levels, symbols, counts):  # type: ignore[no-untyped-def]
    """Fills symbols and counts; returns the largest code."""
    highest = codes.dtype.type(0)
    for b in range(symbols.size // 256):
        z, o = codes[b * 256 * t :], symbols[b * 256 : b * 256 + 256]
        top = z[(t - 1) * 256 : t * 256]
        for j in range(256):
            o[j] = u8(top[j])
            highest = max(highest, top[j])
        for i in range(t - 2, -1, -1):
            plane = z[i * 256 : i * 256 + 256]
            for j in range(256):
                o[j] = u8(o[j] * levels + u8(plane[j]))
                highest = max(highest, plane[j])
        for j in range(0, 256, 4):  # four tables, so that equal neighbours do not wait for each other
            counts[0, o[j]] += 1
            counts[1, o[j + 1]] += 1
            counts[2, o[j + 2]] += 1
            counts[3, o[j + 3]] += 1
    return highest


@kernel
def _split(symbols, t, levels, codes):  # type: ignore[no-untyped-def]
    inverse = u32((u32(65535) + levels) // levels)  # exact below 256
    rest = np.empty(256, u32)
    for b in range(symbols.size // 256):
        y, z = symbols[b * 256 : b * 256 + 256], codes[b * 256 * t :]
        for j in range(256):
            rest[j] = y[j]
        for i in range(t - 1):
            plane = z[i * 256 : i * 256 + 256]
            for j in range(256):
                q = u32(u32(rest[j] * inverse) >> HALF)
                plane[j] = u32(rest[j] - u32(q * levels))
                rest[j] = q
        last = z[(t - 1) * 256 : t * 256]
        for j in range(256):
            last[j] = rest[j]


def join(codes: Codes, levels: int) -> tuple[Symbols, Counts]:
    """(uint8[m], how often each of 256 symbols occurs) of codes: uint[n], levels ≤ 256.

    Raises CodecError for a code that is not below `levels`.
    """
    t = digits_per_symbol(levels)
    full = codes.size // (PLANE * t)
    symbols = np.empty(symbols_of(codes.size, levels), np.uint8)

    def task(start: int) -> Counts:
        stop, counts = min(full, start + step), np.zeros((4, 256), np.int64)
        part = symbols[start * PLANE : stop * PLANE]
        top = _join(codes[start * PLANE * t : stop * PLANE * t], t, u8(levels & 255), part, counts)
        check_codes(int(top), levels)
        total: Counts = counts.sum(axis=0)
        return total

    step = SPAN // (PLANE * t)
    tail, counts = reference.join(codes[full * PLANE * t :], levels)
    symbols[full * PLANE :] = tail
    return symbols, np.sum([counts, *_spread(task, range(0, full, step), codes.size)], axis=0)


def split(symbols: Symbols, n: int, levels: int) -> U32:
    """uint32[n]: the codes of symbols below levels**t. Raises CodecError where a missing code is not 0."""
    t = digits_per_symbol(levels)
    full = n // (PLANE * t)
    codes = np.empty(n, np.uint32)

    def task(start: int) -> None:
        stop = min(full, start + step)
        part = codes[start * PLANE * t : stop * PLANE * t]
        _split(symbols[start * PLANE : stop * PLANE], t, u32(levels), part)

    step = SPAN // (PLANE * t)
    _spread(task, range(0, full, step), n)
    codes[full * PLANE * t :] = reference.split(symbols[full * PLANE :], n - full * PLANE * t, levels)
    return codes


# ---- symbols to bytes


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

    def task(start: int) -> tuple[U32, npt.NDArray[np.uint16]]:
        part = symbols[start : start + CHUNK]
        states, words = np.full(lanes(symbols.size), LOW), np.empty(part.size, np.uint16)
        return states, words[_encode(part, packed, inverse, shift, states, words) :].copy()

    return assemble(_spread(task, range(0, symbols.size, CHUNK), symbols.size))


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

    _spread(task, range(0, m, CHUNK), m)
    return out


# ---- integers to tokens and raw bits


@inlined
def _log2(u):  # type: ignore[no-untyped-def]
    """⌊log2 u⌋ of 0 < u < 2**32."""
    e = 0
    for step in (16, 8, 4, 2, 1):
        if u >> (e + step):
            e += step
    return e


@kernel
def _count_tokens(values, counts):  # type: ignore[no-untyped-def]
    """Whether every |v| is below 2**31; tokens of k = 7 into counts."""
    for i in range(values.size):
        v = i64(values[i])
        if not -0x80000000 < v < 0x80000000:
            return False
        u = (v << 1) ^ (v >> 63)
        if u < 128:
            counts[i & 3, u] += 1
        else:
            e = _log2(u)
            counts[i & 3, 128 + ((e - 7) << 2) + ((u >> (e - 2)) & 3)] += 1
    return True


@kernel
def _tokenize(values, k, tokens, raw):  # type: ignore[no-untyped-def]
    """Tokens of k, and raw bits to `raw`; returns how many bytes these take."""
    direct, held, filled, at = 1 << k, u64(0), 0, 0
    for i in range(values.size):
        v = i64(values[i])
        u = (v << 1) ^ (v >> 63)
        if u < direct:
            tokens[i] = u8(u)
            continue
        e = _log2(u)
        tokens[i] = u8(direct + ((e - k) << 2) + ((u >> (e - 2)) & 3))
        held |= u64(u & ((1 << (e - 2)) - 1)) << u64(filled)
        filled += e - 2
        while filled >= 8:
            raw[at] = u8(held & u64(255))
            held >>= u64(8)
            filled -= 8
            at += 1
    if filled:
        raw[at] = u8(held)
        at += 1
    return at


@kernel
def _detokenize(tokens, raw, k, values):  # type: ignore[no-untyped-def]
    """How many raw bits the tokens took; −1 where there are too few, −2 for a value of −2**31."""
    direct, held, filled, at, total = 1 << k, u64(0), 0, 0, 0
    for i in range(tokens.size):
        u = i64(tokens[i])
        if u >= direct:
            bits = ((u - direct) >> 2) + k - 2
            total += bits
            while filled < bits:
                if at == raw.size:
                    return -1
                held |= u64(raw[at]) << u64(filled)
                filled += 8
                at += 1
            u = ((4 + ((u - direct) & 3)) << bits) | i64(held & u64((1 << bits) - 1))
            held >>= u64(bits)
            filled -= bits
            if u >= 0xFFFFFFFF:
                return -2
        values[i] = i32((u >> 1) ^ -(u & 1))
    return total


def token_counts(values: Codes) -> Counts:
    """How often each of 256 tokens of k = 7 occurs. Raises CodecError for |v| ≥ 2**31."""

    def task(start: int) -> Counts:
        counts = np.zeros((4, 256), np.int64)
        if not _count_tokens(values[start : start + SPAN], counts):
            raise CodecError("integers: every |v| must be below 2**31")
        total: Counts = counts.sum(axis=0)
        return total

    parts = _spread(task, range(0, values.size, SPAN), values.size)
    total: Counts = np.sum([np.zeros(256, np.int64), *parts], axis=0)
    return total


def tokenize(values: Codes, k: int) -> tuple[Symbols, bytes]:
    """(tokens uint8[n], raw section) of integers |v| < 2**31; k in 3 … 7."""
    tokens = np.empty(values.size, np.uint8)
    raw = np.empty(4 * values.size, np.uint8)  # a value has 29 raw bits at most
    return tokens, raw[: _tokenize(values, k, tokens, raw)].tobytes()


def detokenize(tokens: Symbols, raw: bytes, k: int) -> npt.NDArray[np.int32]:
    """int32[n] of tokens below `token_limit(k)`. Raises CodecError for a raw section that does not fit."""
    values = np.empty(tokens.size, np.int32)
    taken = _detokenize(tokens, np.frombuffer(raw, np.uint8), k, values)
    if taken == -1:
        raise CodecError(f"integers: raw section of {len(raw)} bytes is too short")
    if taken == -2:
        raise CodecError("integers: -2**31 is not coded")
    check_raw(raw, taken)
    return values
