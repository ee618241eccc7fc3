"""Integers to tokens, which are symbols, and raw bits: small ones each a token, the rest by exponent.

v is folded to u = 2v or −2v−1. Tokens below 2**k are u itself. Above, with e = ⌊log2 u⌋, the token is
2**k + 4(e−k) + the two bits of u after its first, and the e−2 bits left go to the raw section, in order,
from the lowest bit up.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.errors import CodecError
from fedquant.kernels.reference.symbols import Codes, Counts, Symbols

FINEST: Final = 7  # the largest k


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
