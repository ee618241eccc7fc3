"""Symbols in [0, 256) to bytes by interleaved rANS (Duda, "Asymmetric numeral systems", 2013).

States are in [2**15, 2**31), frequencies sum to 2**14, words have 16 bits. m symbols go in chunks of 2**16,
each coded on its own; symbol i of a chunk is coded by lane i mod L, where L = `lanes(m)`. A stream: a u32 for
every chunk but the last, how many words it has; then for each chunk L states (u32) and its words (u16), in
the order the decoder takes them. Little-endian. Every lane ends at state 2**15 with all words taken, which
the decoder verifies.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.errors import CodecError
from fedquant.kernels.reference.symbols import U32, Counts, Symbols

Words = npt.NDArray[np.uint16]

BITS: Final = 14  # frequencies sum to 2**BITS
CHUNK: Final = 1 << 16  # symbols
_LOW: Final = 1 << 15  # states are in [_LOW, _LOW << 16)
_SHIFT: Final = 31 - BITS  # a state of at least freq << _SHIFT gives up a word first


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
