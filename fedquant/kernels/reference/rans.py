"""Entropy coding of symbols in [0, 256) by interleaved rANS, and what turns codes and integers into symbols.

Symbols. t = `digits_per_symbol(levels)` codes make one symbol, the first the least significant digit. Codes
go in blocks of 256·t; symbol j of a block joins codes j, j+H, j+2H, … with H = 256. The last block of r
codes has H = ⌈r/t⌉; missing codes are 0.

rANS (Duda, "Asymmetric numeral systems", 2013). States are in [2**15, 2**31), frequencies sum to 2**14,
words have 16 bits. m symbols go in chunks of 2**16, each coded on its own; symbol i of a chunk is coded by
lane i mod L, where L = `lanes(m)`. A stream: a u32 for every chunk but the last, how many words it has; then
for each chunk L states (u32) and its words (u16), in the order the decoder takes them. Little-endian.
Every lane ends at state 2**15 with all words taken, which the decoder verifies.

Integers. v is folded to u = 2v or −2v−1. Tokens below 2**k are u itself. Above, with e = ⌊log2 u⌋, the token
is 2**k + 4(e−k) + the two bits of u after its first, and the e−2 bits left go to the raw section, in
order, from the lowest bit up.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedquant.errors import CodecError

Codes = npt.NDArray[Any]
Symbols = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]

BITS: Final = 14  # frequencies sum to 2**BITS
CHUNK: Final = 1 << 16  # symbols
PLANE: Final = 256  # symbols a block
FINEST: Final = 7  # the largest k of integer tokens
_LOW: Final = 1 << 15  # states are in [_LOW, _LOW << 16)
_SHIFT: Final = 31 - BITS  # a state of at least freq << _SHIFT gives up a word first


# ---- codes to symbols


@lru_cache(maxsize=256)
def digits_per_symbol(levels: int) -> int:
    """The largest t with levels**t ≤ 256."""
    t = 1
    while levels ** (t + 1) <= 256:
        t += 1
    return t


def symbols_of(n: int, levels: int) -> int:
    """How many symbols n codes make."""
    return -(-n // digits_per_symbol(levels))


def join(codes: Codes, levels: int) -> tuple[Symbols, Counts]:
    """(uint8[m], how often each of 256 symbols occurs) of codes: uint[n], levels ≤ 256.

    Raises CodecError for a code that is not below `levels`.
    """
    check_codes(int(codes.max(initial=0)), levels)
    t = digits_per_symbol(levels)
    full = codes.size - codes.size % (PLANE * t)
    height = symbols_of(codes.size - full, levels)
    tail = np.zeros(t * height, np.uint8)
    tail[: codes.size - full] = codes[full:]
    blocks = (codes[:full].astype(np.uint8).reshape(-1, t, PLANE), tail.reshape(1, t, height))
    symbols = np.concatenate([_horner(planes, levels).reshape(-1) for planes in blocks])
    return symbols, np.bincount(symbols, minlength=256)


def check_codes(top: int, levels: int) -> None:
    """Raises CodecError for a largest code that is not below `levels`."""
    if top >= levels:
        raise CodecError(f"rans: a code is {top}, not below {levels} levels")


def _horner(planes: Symbols, levels: int) -> Symbols:
    out = planes[:, -1].copy()
    for i in range(planes.shape[1] - 2, -1, -1):
        out = out * np.uint8(levels) + planes[:, i]
    return out


def split(symbols: Symbols, n: int, levels: int) -> U32:
    """uint32[n]: the codes of symbols below levels**t. Raises CodecError where a missing code is not 0."""
    t = digits_per_symbol(levels)
    blocks = n // (PLANE * t)
    head = _digits(symbols[: blocks * PLANE].reshape(blocks, PLANE), levels, t)
    tail = _digits(symbols[blocks * PLANE :].reshape(1, -1), levels, t)
    rest = n - head.size
    if tail[rest:].any():
        raise CodecError("rans: padding is not zero")
    return np.concatenate([head, tail[:rest]])


def _digits(rows: Symbols, levels: int, t: int) -> U32:
    out = np.empty((rows.shape[0], t, rows.shape[1]), np.uint32)
    rest = rows.astype(np.uint32)
    for i in range(t):
        out[:, i] = rest % levels
        rest //= np.uint32(levels)
    return out.reshape(-1)


# ---- symbols to bytes


def lanes(m: int) -> int:
    """States that take turns over m symbols: 1 below 2**12, 2, 4, then 8 from 2**14 on."""
    return 1 << min(3, max(0, m.bit_length() - 12))


def _alike(m: int) -> list[tuple[int, int, int]]:
    """(first chunk, chunks, symbols a chunk) of chunks that are coded together: the full ones, the last."""
    full, rest = divmod(m, CHUNK)
    return [group for group in ((0, full, CHUNK), (full, 1, rest)) if group[1] * group[2]]


def encode(symbols: Symbols, freq: Counts) -> bytes:
    """The stream of uint8[m], where freq[y] > 0 for every symbol and all sum to 2**14."""
    chunks = []
    for first, count, size in _alike(symbols.size):
        rows = symbols[first * CHUNK :][: count * size].reshape(count, size)
        chunks += _encode_rows(rows, freq, lanes(symbols.size))
    return assemble(chunks)


def assemble(chunks: list[tuple[U32, Words]]) -> bytes:
    """A stream of the states and words of each chunk."""
    counts = np.array([words.size for _, words in chunks[:-1]], "<u4")
    parts = [(s.astype("<u4", copy=False), w.astype("<u2", copy=False)) for s, w in chunks]
    return b"".join([counts.data, *(array.data for pair in parts for array in pair)])


def _encode_rows(rows: Symbols, freq: Counts, width: int) -> list[tuple[U32, Words]]:
    """(states, words) of each row; all rows and lanes advance together, from the last symbol to the first."""
    count, size = rows.shape
    steps = -(-size // width)
    padded = np.zeros((count, steps * width), np.uint8)
    padded[:, :size] = rows
    turns = np.ascontiguousarray(padded.reshape(count, steps, width).swapaxes(0, 1))
    start = np.cumsum(freq) - freq
    low = np.empty(turns.shape, np.uint16)
    sent = np.zeros(turns.shape, np.bool_)
    state = np.full((count, width), _LOW, np.int64)
    for i in range(steps - 1, -1, -1):
        used = min(width, size - i * width)
        y, x = turns[i, :, :used], state[:, :used]
        f = freq[y]
        low[i, :, :used] = x & 0xFFFF
        over = np.greater_equal(x >> _SHIFT, f, out=sent[i, :, :used])
        quotient, rest = np.divmod(x >> (over.astype(np.int64) << 4), f)
        state[:, :used] = (quotient << BITS) + rest + start[y]
    return [(state[c].astype(np.uint32), low[:, c][sent[:, c]]) for c in range(count)]


def layout(data: bytes, m: int) -> tuple[Words, Counts, Counts]:
    """(uint16 words of all chunks, states included, and zeros behind; starts and ends of chunks therein).

    No chunk can read past the zeros: a symbol takes one word at most. Raises CodecError for a wrong length.
    """
    chunks, states = -(-m // CHUNK), 2 * lanes(m)
    if chunks == 0 and data:
        raise CodecError(f"rans: stream of {len(data)} bytes, expected none")
    head = 4 * max(0, chunks - 1)
    total = (len(data) - head) // 2
    if len(data) % 2 or total < states * chunks:
        raise CodecError(f"rans: a stream of {len(data)} bytes is too short, or odd")
    counts = np.frombuffer(data, "<u4", head // 4).astype(np.int64)
    inner = np.cumsum(counts + states)
    if counts.max(initial=0) > CHUNK or inner.max(initial=0) + states * min(chunks, 1) > total:
        raise CodecError("rans: a chunk's word count exceeds the stream")
    words = np.zeros(total + min(m, CHUNK), np.uint16)
    words[:total] = np.frombuffer(data, "<u2", total, head)
    return words, np.append(0, inner), np.append(inner, total)


def check_start(states: U32) -> None:
    """Raises CodecError for a state that no encoder writes."""
    if ((states < _LOW) | (states >= _LOW << 16)).any():
        raise CodecError("rans: a state is out of range")


def check_end(states: U32, taken: Counts, ends: Counts) -> None:
    """Raises CodecError unless every lane came back to its first state with all its words taken."""
    if (states != _LOW).any() or not np.array_equal(taken, ends):
        raise CodecError("rans: the stream does not end where its symbols do")


def decode(data: bytes, m: int, freq: Counts) -> Symbols:
    """uint8[m] of a stream. Raises CodecError for a damaged one."""
    words, starts, ends = layout(data, m)
    out = np.empty(m, np.uint8)
    for first, count, size in _alike(m):
        part = out[first * CHUNK :][: count * size].reshape(count, size)
        chunks = slice(first, first + count)
        _decode_rows(words, starts[chunks], ends[chunks], lanes(m), freq, part)
    return out


def _decode_rows(words: Words, starts: Counts, ends: Counts, width: int, freq: Counts, out: Symbols) -> None:
    count, size = out.shape
    symbol, slot_freq, slot_rank = _slots(freq)
    at = starts[:, None]
    first = words[at + np.arange(2 * width)].astype(np.uint32)
    states = first[:, ::2] | first[:, 1::2] << np.uint32(16)
    check_start(states)
    state = states.astype(np.int64)
    at = at + 2 * width
    steps = -(-size // width)
    slots = np.zeros((steps, count, width), np.uint16)
    for i in range(steps):
        used = min(width, size - i * width)
        x = state[:, :used]
        slot = x & ((1 << BITS) - 1)
        slots[i, :, :used] = slot
        x = slot_freq[slot] * (x >> BITS) + slot_rank[slot]
        short = x < _LOW
        after = at + np.cumsum(short, axis=1)
        state[:, :used] = np.where(short, x << 16 | words[after - 1], x)
        at = after[:, -1:]
    check_end(state.astype(np.uint32), at[:, 0], ends)
    out[:] = symbol[slots.swapaxes(0, 1).reshape(count, -1)[:, :size]]


def _slots(freq: Counts) -> tuple[Symbols, Counts, Counts]:
    """For each of 2**14 slots: its symbol, that symbol's frequency, and the slot's rank within it."""
    symbol = np.repeat(np.arange(freq.size, dtype=np.uint8), freq)
    start = np.cumsum(freq) - freq
    return symbol, freq[symbol], np.arange(1 << BITS) - start[symbol]


# ---- integers to tokens and raw bits


def raw_bits(k: int) -> Counts:
    """How many raw bits come with each of 256 tokens."""
    return np.maximum(0, (np.arange(256) - (1 << k)) // 4 + k - 2) * (np.arange(256) >= 1 << k)


def token_limit(k: int) -> int:
    """Tokens of k are below this."""
    return (1 << k) + 4 * (32 - k)


def token_counts(values: Codes) -> Counts:
    """How often each of 256 tokens of k = 7 occurs. Raises CodecError for |v| ≥ 2**31."""
    if values.size and (values.max() >= 1 << 31 or values.min() <= -(1 << 31)):
        raise CodecError("integers: every |v| must be below 2**31")
    return np.bincount(_token(_fold(values), FINEST), minlength=256)


def tokenize(values: Codes, k: int) -> tuple[Symbols, bytes]:
    """(tokens uint8[n], raw section) of integers |v| < 2**31; k in 3 … 7."""
    folded = _fold(values)
    tokens = _token(folded, k)
    width = raw_bits(k)[tokens]
    long = np.flatnonzero(width)
    return tokens, _write_bits(folded[long] & ((1 << width[long]) - 1), width[long])


def _fold(values: Codes) -> Counts:
    wide = values.astype(np.int64)
    return wide << 1 ^ wide >> 63


def _token(folded: Counts, k: int) -> Symbols:
    exponent = np.maximum(np.frexp(folded.astype(np.float64))[1].astype(np.int64) - 1, k)
    long = (1 << k) + ((exponent - k) << 2) + ((folded >> (exponent - 2)) & 3)
    return np.where(folded < 1 << k, folded, long).astype(np.uint8)


def detokenize(tokens: Symbols, raw: bytes, k: int) -> npt.NDArray[np.int32]:
    """int32[n] of tokens below `token_limit(k)`. Raises CodecError for a raw section that does not fit."""
    folded = tokens.astype(np.int64)
    width = raw_bits(k)[tokens]
    long = np.flatnonzero(folded >= 1 << k)
    w = width[long]
    folded[long] = (4 + ((folded[long] - (1 << k)) & 3)) << w | _read_bits(raw, w)
    if (folded == (1 << 32) - 1).any():
        raise CodecError("integers: -2**31 is not coded")
    return (folded >> 1 ^ -(folded & 1)).astype(np.int32)


def _write_bits(values: Counts, width: Counts) -> bytes:
    ends = np.cumsum(width)
    total = int(width.sum())
    word, shift = np.divmod(ends - width, 32)
    placed = values << shift  # below 2**61
    # Different values never share a bit, so that the sums are exact.
    size = total // 32 + 2
    words = np.bincount(word, placed & 0xFFFFFFFF, size) + np.bincount(word + 1, placed >> 32, size)
    return words.astype("<u4").tobytes()[: -(-total // 8)]


def _read_bits(raw: bytes, width: Counts) -> Counts:
    ends = np.cumsum(width)
    total = int(width.sum())
    check_raw(raw, total)
    words = np.frombuffer(raw + bytes(8 - len(raw) % 4), "<u4").astype(np.int64)
    word, shift = np.divmod(ends - width, 32)
    pair = words[word] | (words[word + 1] & 0x7FFFFFFF) << 32  # no value reaches the topmost bit
    values: Counts = pair >> shift & ((1 << width) - 1)
    return values


def check_raw(raw: bytes, total: int) -> None:
    """Raises CodecError unless `raw` is `total` bits and zeros up to a full byte."""
    if len(raw) != -(-total // 8):
        raise CodecError(f"integers: raw section of {len(raw)} bytes, expected {-(-total // 8)}")
    if total % 8 and raw[-1] >> total % 8:
        raise CodecError("integers: padding is not zero")
