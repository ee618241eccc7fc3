"""Sets of k indices out of n as bytes, for codecs that send few numbers of a vector; both sides know n and k.

    k = 0, k = n    nothing
    n ≤ 2048        enumerative: the set's rank among all C(n, k), in ⌈log2 C(n, k)⌉ bits rounded up to
                    bytes, little-endian (T. Cover, "Enumerative Source Encoding", 1973)
    otherwise       Rice: one byte l ≤ 31, then of each gap between neighbours (what lies between, so 0 or
                    more) the low l bits, plane by plane, then gap >> l in unary: that many 0, one 1.
                    Bits fill bytes from the lowest up, the last with 0.
                    Or byte 255, the length of what follows (u32), and `entropy` of the gaps as integers.

Rice takes at most k·(2 + log2(n/k)) bits, and on uniform sets some .05 bit an index above the entropy.
With l = 0 it is a plain bitmap. The encoder tries every useful l.
"""

from __future__ import annotations

import math
import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.codecs import entropy
from fedquant.errors import CodecError

Indices = npt.NDArray[np.int64]

ENUMERATIVE: Final = 2048  # numbers; about 1 ms each way at the costliest k, n/2
_MAX_PARAMETER: Final = 31
_CODED: Final = 255
_HEAD: Final = struct.Struct("<BI")


def encode_indices(indices: Indices, n: int, coded: bool = False) -> bytes:
    """The set `indices`: int64[k], ascending, distinct, each in [0, n).

    coded: entropy-coded gaps where they are shorter, as for sets that are dense here and sparse there.
    """
    k = indices.size
    if k in (0, n):
        return b""
    if n <= ENUMERATIVE:
        return _rank(indices.tolist(), n).to_bytes(_rank_size(n, k), "little")
    gaps = np.diff(indices, prepend=-1) - 1
    sizes = [int((gaps >> low).sum()) + low * k for low in range((n // k).bit_length() + 1)]
    rice = _rice(gaps, sizes.index(min(sizes)))
    if coded:
        stream = entropy.pack_integers(gaps)
        if _HEAD.size + len(stream) < len(rice):
            return _HEAD.pack(_CODED, len(stream)) + stream
    return rice


def decode_indices(data: bytes, at: int, n: int, k: int) -> tuple[Indices, int]:
    """(the set of k ≤ n that starts at byte `at`, where it ends). Raises CodecError for a bad one."""
    if k in (0, n):
        return np.arange(k), at
    if n > ENUMERATIVE:
        coded = data[at : at + 1] == bytes([_CODED])
        return _uncoded(data, at, n, k) if coded else _unrice(data, at, n, k)
    end = at + _rank_size(n, k)
    if len(data) < end:
        raise CodecError(f"indices: {len(data) - at} bytes, {k} of {n} take {end - at}")
    return np.array(_unrank(int.from_bytes(data[at:end], "little"), n, k), np.int64), end


def _rank_size(n: int, k: int) -> int:
    return ((math.comb(n, k) - 1).bit_length() + 7) // 8


def _rank(indices: list[int], n: int) -> int:
    """How many sets of k come before this one, ordered by their largest index, then the next, and so on."""
    left, rank, sets = len(indices), 0, math.comb(n, len(indices))
    while left:  # `sets` of `left` indices below n, of which `without` lack n − 1
        without = sets * (n - left) // n
        n -= 1
        if indices[left - 1] == n:
            rank, sets, left = rank + without, sets - without, left - 1
        else:
            sets = without
    return rank


def _unrank(rank: int, n: int, k: int) -> list[int]:
    indices: list[int] = []
    sets = math.comb(n, k)
    if rank >= sets:
        raise CodecError(f"indices: rank is not below C({n}, {k})")
    while len(indices) < k:
        without = sets * (n - k + len(indices)) // n
        n -= 1
        if rank >= without:
            rank, sets = rank - without, sets - without
            indices.append(n)
        else:
            sets = without
    return indices[::-1]


def _rice(gaps: Indices, low: int) -> bytes:
    ends = np.cumsum((gaps >> low) + 1)
    fixed = gaps.size * low
    bits = np.zeros(fixed + int(ends[-1]), np.uint8)
    bits[:fixed] = ((gaps >> np.arange(low)[:, None]) & 1).reshape(-1)
    bits[fixed - 1 + ends] = 1
    return bytes([low]) + np.packbits(bits, bitorder="little").tobytes()


def _uncoded(data: bytes, at: int, n: int, k: int) -> tuple[Indices, int]:
    if len(data) < at + _HEAD.size:
        raise CodecError(f"indices: cut off, or not {k} of {n}")
    start = at + _HEAD.size
    end = start + _HEAD.unpack_from(data, at)[1]
    if end > len(data):
        raise CodecError(f"indices: {len(data) - start} bytes, {end - start} were to follow")
    gaps = entropy.unpack_integers(data[start:end], k).astype(np.int64)
    indices = np.cumsum(gaps + 1) - 1
    if gaps.min() < 0 or indices[-1] >= n:
        raise CodecError(f"indices: a gap is negative, or an index is not below {n}")
    return indices, end


def _unrice(data: bytes, at: int, n: int, k: int) -> tuple[Indices, int]:
    low = data[at] if at < len(data) else _MAX_PARAMETER + 1
    if low > _MAX_PARAMETER:
        raise CodecError(f"indices: the Rice parameter is missing or above {_MAX_PARAMETER}")
    fixed, longest = k * low, k + ((n - k) >> low)
    body = data[at + 1 : at + 1 - (-(fixed + longest) // 8)]
    bits: npt.NDArray[np.uint8] = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")
    ends = np.flatnonzero(bits[fixed:])[:k].astype(np.int64)
    if ends.size < k:
        raise CodecError(f"indices: cut off, or not {k} of {n}")
    gaps = (np.diff(ends, prepend=-1) - 1) << low
    for i in range(low):
        gaps |= bits[i * k : (i + 1) * k].astype(np.int64) << i
    indices = np.cumsum(gaps + 1) - 1
    used = fixed + int(ends[-1]) + 1
    size = -(-used // 8)
    if indices[-1] >= n or bits[used : 8 * size].any():
        raise CodecError(f"indices: one is not below {n}, or padding is not zero")
    return indices, at + 1 + size
