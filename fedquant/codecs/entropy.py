"""Codes and integers in about as many bytes as their entropy: the container that codecs call.

`pack` writes one byte, the mode, and then
    0       the codes as they are: planar for 2, 4, 16 or 256 levels, mixed radix otherwise
    1       the code that all n are: a varint
    2       clusters of segments: u8 K; the cluster of each segment, mixed radix; lengths of all streams but
            the last, varints; K streams, none of them clustered
    3       over 256 levels: the centre c, a varint; then `pack_integers` of the codes, renumbered by
            distance from c (c, c+1, c−1, c+2, …, and one-sided where the other side is used up)
    0x1q    rANS: a table of the frequencies of digits, of precision q; the stream (kernels.rans)
    0x2q    rANS: a table of the frequencies of symbols (t digits each), of precision q; the stream

Table: numbers that sum to 2**q, in nibbles, low nibble first: base-8 digits, the lowest first, 8 added to
all but the last; 0 and r for r+1 zeros. It ends where the sum is reached; a last number is implied.
Symbol frequencies are the products of their digits', brought to the sum 2**14 by `normalize`.

`pack_integers` writes k, the count of tokens A, the length of the tokens if A > 2**k (a varint), the tokens
as `pack` with A levels, and the raw section. Varints are LEB128: 7 bits a byte, the lowest first.

The encoder's choices rest on integers alone: the same codes give the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.codecs.clusters import cluster
from fedquant.codecs.frequencies import (
    DIGITS,
    SYMBOLS,
    code_bits,
    model,
    normalize,
    read_table,
    read_varint,
    symbol_freq,
    varint,
)
from fedquant.errors import CodecError
from fedquant.kernels import pack as plain
from fedquant.kernels import rans, symbols, tokens
from fedquant.kernels.reference.symbols import U32, Codes, Counts

MAX_LEVELS: Final = (1 << 17) + 1
STORED, CONSTANT, CLUSTERS, INTEGERS = 0, 1, 2, 3


# ---- codes


def pack(codes: Codes, levels: int, segments: Sequence[int] = ()) -> bytes:
    """Bytes of codes: uint[n] in [0, levels), 2 ≤ levels ≤ 2**17+1; never over one byte above the plain form.

    segments: ends of parts that may differ in distribution; those alike share a table.
    Raises CodecError for a code that is not below `levels`.
    """
    _check(codes.size, levels, segments)
    codes = np.ascontiguousarray(codes, np.uint8 if codes.dtype == np.uint8 else np.uint32)
    limit = 1 + _plain_size(codes.size, levels)
    if len(segments) > 1 and levels <= 256:
        ids = cluster(codes, levels, segments)
        if ids is not None:
            data = _pack_clusters(codes, levels, segments, ids)
            if len(data) <= limit:
                return data
    data = _pack_coded(codes, levels, segments)
    return data if data and len(data) <= limit else bytes([STORED]) + _pack_plain(codes, levels)


def unpack(data: bytes, n: int, levels: int, segments: Sequence[int] = ()) -> U32:
    """uint32[n] of what `pack` wrote. Raises CodecError, and nothing else, for other bytes."""
    _check(n, levels, segments)
    if not data:
        raise CodecError("entropy: no data, expected a mode byte")
    mode = data[0]
    if mode == STORED:
        return _unpack_plain(data[1:], n, levels)
    if mode == CONSTANT and n:
        code, at = read_varint(data, 1)
        if at != len(data) or code >= levels:
            raise CodecError(f"entropy: {code} is not below {levels} levels, or bytes follow it")
        return np.full(n, code, np.uint32)
    if mode == CLUSTERS and len(segments) > 1 and levels <= 256:
        return _unpack_clusters(data, n, levels, segments)
    if mode == INTEGERS and levels > 256:
        return _unpack_wide(data, n, levels, segments)
    q, kind = mode & 0x0F, mode & 0xF0
    if kind in (DIGITS, SYMBOLS) and 1 <= q <= rans.BITS and levels <= 256:
        t = symbols.digits_per_symbol(levels)
        table, at = read_table(data, 1, levels if kind == DIGITS else levels**t, q)
        freq = symbol_freq(table, t if kind == DIGITS else 1)
        return symbols.split(rans.decode(data[at:], symbols.symbols_of(n, levels), freq), n, levels)
    raise CodecError(f"entropy: mode {mode:#04x} is unknown, or not of {levels} levels")


def _check(n: int, levels: int, segments: Sequence[int]) -> None:
    if not 2 <= levels <= MAX_LEVELS or (segments and segments[-1] != n):
        raise CodecError(f"entropy: {levels} levels (2 … {MAX_LEVELS}), {n} codes, segments {segments[-1:]}")


def _bits(levels: int) -> int | None:
    return {2: 1, 4: 2, 16: 4, 256: 8}.get(levels)


def _plain_size(n: int, levels: int) -> int:
    bits = _bits(levels)
    return plain.bits_size(n, bits) if bits else plain.radix_size(n, levels)


def _pack_plain(codes: Codes, levels: int) -> bytes:
    bits = _bits(levels)
    return plain.pack_bits(codes, bits) if bits else plain.pack_radix(codes, levels)


def _unpack_plain(data: bytes, n: int, levels: int) -> U32:
    bits = _bits(levels)
    codes = plain.unpack_bits(data, n, bits) if bits else plain.unpack_radix(data, n, levels)
    wide: U32 = codes.astype(np.uint32, copy=False)
    return wide


def _pack_coded(codes: Codes, levels: int, segments: Sequence[int]) -> bytes:
    """One of modes 1, 3, 0x1q, 0x2q; empty where the plain form is shorter beyond doubt."""
    n = codes.size
    if n == 0:
        return b""
    if levels > 256:
        symbols.check_codes(int(codes.max()), levels)
        return _pack_constant(codes) or _pack_wide(codes, levels, segments)
    joined, counts = symbols.join(codes, levels)
    if np.count_nonzero(counts) <= 2 and (constant := _pack_constant(codes)):  # two: the last one is padded
        return constant
    head, freq, size = model(counts, levels)
    if size > _plain_size(n, levels):
        return b""
    return head + rans.encode(joined, freq)


def _pack_constant(codes: Codes) -> bytes:
    return bytes([CONSTANT]) + varint(int(codes[0])) if (codes == codes[0]).all() else b""


def _pack_wide(codes: Codes, levels: int, segments: Sequence[int]) -> bytes:
    sample = codes[:: codes.size // 4096 + 1]
    centre = int(np.partition(sample, sample.size // 2)[sample.size // 2])
    rank = _ranks(centre, levels)
    values = (rank >> 1 ^ -(rank & 1)).astype(np.int32)
    return bytes([INTEGERS]) + varint(centre) + pack_integers(values[codes], segments)


def _unpack_wide(data: bytes, n: int, levels: int, segments: Sequence[int]) -> U32:
    centre, at = read_varint(data, 1)
    values = unpack_integers(data[at:], n, segments).astype(np.int64)
    rank = values << 1 ^ values >> 63
    if max(centre, rank.max(initial=0)) >= levels:
        raise CodecError(f"entropy: a code or the centre is not below {levels} levels")
    order = np.empty(levels, np.uint32)
    order[_ranks(centre, levels)] = np.arange(levels, dtype=np.uint32)
    codes: U32 = order[rank]
    return codes


def _ranks(centre: int, levels: int) -> Counts:
    """int64[levels]: the place of each code in the order of distance from the centre, upper side first."""
    away = np.arange(levels) - centre
    both = min(centre, levels - 1 - centre)
    far = np.abs(away)
    return np.where(far <= both, 2 * far - (away > 0), far + both)


# ---- integers


def pack_integers(values: Codes, segments: Sequence[int] = ()) -> bytes:
    """Bytes of signed integers [n], |v| < 2**31: a table entry for each small one, the rest by exponent.

    Raises CodecError for a larger one.
    """
    values = np.ascontiguousarray(values)
    counts = tokens.token_counts(values)
    if values.size == 0:
        return b""
    k = min(range(3, tokens.FINEST + 1), key=lambda k: _integer_cost(counts, k))
    coded, raw = tokens.tokenize(values, k)
    alphabet = max(2, int(coded.max()) + 1)
    stream = pack(coded, alphabet, segments)
    length = varint(len(stream)) if alphabet > 1 << k else b""
    return bytes([k, alphabet]) + length + stream + raw


def unpack_integers(data: bytes, n: int, segments: Sequence[int] = ()) -> npt.NDArray[np.int32]:
    """int32[n] of what `pack_integers` wrote. Raises CodecError, and nothing else, for other bytes."""
    if n == 0 and not data:
        return np.zeros(0, np.int32)
    if n == 0 or len(data) < 2:
        raise CodecError(f"integers: {len(data)} bytes for {n} numbers")
    k, alphabet, at, end = data[0], data[1], 2, len(data)
    if not 3 <= k <= tokens.FINEST or not 2 <= alphabet <= tokens.token_limit(k):
        raise CodecError(f"integers: k = {k} with {alphabet} tokens is never written")
    if alphabet > 1 << k:
        length, at = read_varint(data, at)
        end = at + length
    if end > len(data):
        raise CodecError(f"integers: tokens of {end - at} bytes, {len(data) - at} are there")
    coded = unpack(data[at:end], n, alphabet, segments).astype(np.uint8)
    return tokens.detokenize(coded, data[end:], k)


def _integer_cost(fine: Counts, k: int) -> int:
    """About how many bits tokens of k take, from the counts of the finest."""
    counts = np.zeros(256, np.int64)
    np.add.at(counts, _coarser(k), fine[: tokens.token_limit(tokens.FINEST)])
    used = np.flatnonzero(counts)
    table = 8 * used.size + used[-1] // 2  # a byte for 16 that are unused
    return int(code_bits(counts, normalize(counts, rans.BITS)) + counts @ tokens.raw_bits(k) + table)


@lru_cache(maxsize=8)
def _coarser(k: int) -> npt.NDArray[np.uint8]:
    """The token of k for each of the finest."""
    fine = np.arange(tokens.token_limit(tokens.FINEST))
    raw = tokens.raw_bits(tokens.FINEST)[fine]
    folded = np.where(raw > 0, (4 + (fine & 3)) << raw, fine)
    return tokens.tokenize(folded >> 1 ^ -(folded & 1), k)[0]


# ---- clusters of segments


def _pack_clusters(codes: Codes, levels: int, segments: Sequence[int], ids: Counts) -> bytes:
    k = int(ids.max()) + 1
    parts = [codes[start:stop] for start, stop in zip((0, *segments), segments, strict=False)]
    streams = [
        pack(np.concatenate([part for part, c in zip(parts, ids, strict=True) if c == cluster]), levels)
        for cluster in range(k)
    ]
    head = bytes([CLUSTERS, k]) + plain.pack_radix(ids.astype(np.uint32), k)
    return b"".join([head, *(varint(len(stream)) for stream in streams[:-1]), *streams])


def _unpack_clusters(data: bytes, n: int, levels: int, segments: Sequence[int]) -> U32:
    k = data[1] if len(data) > 1 else 0
    if not 2 <= k <= len(segments):
        raise CodecError(f"entropy: {k} clusters of {len(segments)} segments")
    at = 2 + plain.radix_size(len(segments), k)
    ids = plain.unpack_radix(data[2:at], len(segments), k)
    lengths = []
    for _ in range(k - 1):
        length, at = read_varint(data, at)
        lengths.append(length)
    lengths.append(len(data) - at - sum(lengths))
    if lengths[-1] < 0:
        raise CodecError("entropy: streams of clusters exceed the payload")
    cuts = np.array([0, *segments])
    sizes = np.diff(cuts)
    out = np.empty(n, np.uint32)
    for c, length in enumerate(lengths):
        members = np.flatnonzero(ids == c)
        codes = unpack(data[at : at + length], int(sizes[members].sum()), levels)
        at += length
        taken = 0
        for i in members:
            out[cuts[i] : cuts[i + 1]] = codes[taken : taken + sizes[i]]
            taken += sizes[i]
    return out
