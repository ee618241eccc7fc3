"""Integers to tokens and raw bits in numba: the same bytes as the reference."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.errors import CodecError
from fedquant.kernels.compiled.jit import each, inlined, kernel
from fedquant.kernels.reference.symbols import Codes, Counts, Symbols
from fedquant.kernels.reference.tokens import FINEST, check_raw, raw_bits, token_limit

__all__ = ["FINEST", "detokenize", "raw_bits", "token_counts", "token_limit", "tokenize"]

SPAN: Final = 1 << 18  # integers a task

u8, u64, i32, i64 = np.uint8, np.uint64, np.int32, np.int64


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

    parts = each(task, range(0, values.size, SPAN), values.size)
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
