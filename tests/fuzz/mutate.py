"""Ways to damage bytes, each a function of a case's draws."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, TypeVar

from fedquant.kernels import rng
from fedquant.keys import Key

WINDOW: Final = 1 << 13
"""Draws a case may take; 2**19 cases share a key."""

T = TypeVar("T")
_WORDS: Final = struct.Struct("<16I")


class Draws:
    """The draws of one case of a seed, read one after the other."""

    def __init__(self, seed: int, case: int) -> None:
        block, place = divmod(case, (1 << 32) // WINDOW)
        self._key, self._at, self._end = _key(seed, block), place * WINDOW, (place + 1) * WINDOW
        self._ready: list[int] = []

    def below(self, n: int) -> int:
        """An integer in [0, n); 0 for n = 0."""
        if not self._ready:
            self._ready = list(_WORDS.unpack(self.bytes(_WORDS.size)))
        return self._ready.pop() * n >> 32

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def bytes(self, n: int) -> bytes:
        """n random bytes. Raises ValueError where a case draws more than its window."""
        count = -(-n // 4)
        if self._at + count > self._end:
            raise ValueError(f"a case needs more than {WINDOW} draws")
        self._at += count
        return rng.uint32(self._key, count, self._at - count).astype("<u4").tobytes()[:n]


@lru_cache(maxsize=8)
def _key(seed: int, block: int) -> Key:
    return Key(seed, round=block)


def truncate(d: Draws, data: bytes, other: bytes) -> bytes:
    """All but the end."""
    return data[: d.below(len(data))]


def extend(d: Draws, data: bytes, other: bytes) -> bytes:
    """A few bytes more."""
    return data + d.bytes(1 + d.below(8))


def flip(d: Draws, data: bytes, other: bytes) -> bytes:
    """One to three bits flipped: what a CRC-32 always finds at these lengths."""
    out = bytearray(data)
    for _ in range(min(len(data), 1 + d.below(3))):
        bit = d.below(8 * len(data))
        out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def huge(d: Draws, data: bytes, other: bytes) -> bytes:
    """The largest 4- or 8-byte integer at any place."""
    width = d.pick((4, 8))
    return overwrite(data, d.below(len(data)), b"\xff" * width)


def special(d: Draws, data: bytes, other: bytes) -> bytes:
    """A float that needs care, mostly where floats start."""
    number, form = d.pick(_SPECIALS), d.pick(("<f", "<d"))
    at = d.below(len(data))
    return overwrite(data, at if d.below(4) == 0 else at & ~3, struct.pack(form, number))


def noise(d: Draws, data: bytes, other: bytes) -> bytes:
    """A few random bytes at any place."""
    return overwrite(data, d.below(len(data)), d.bytes(1 + d.below(8)))


def zero(d: Draws, data: bytes, other: bytes) -> bytes:
    """A stretch of zeros."""
    start = d.below(len(data))
    return overwrite(data, start, bytes(d.below(len(data) - start + 1)))


def splice(d: Draws, data: bytes, other: bytes) -> bytes:
    """The head of one and the tail of another."""
    at = d.below(len(data) + 1)
    return data[:at] + other[at:]


def random(d: Draws, data: bytes, other: bytes) -> bytes:
    """As many random bytes."""
    return d.bytes(len(data))


def anything(d: Draws, data: bytes, other: bytes) -> bytes:
    """Any number of random bytes up to twice as many."""
    return d.bytes(d.below(min(2 * len(data) + 16, 2000)))


Mutation = Callable[[Draws, bytes, bytes], bytes]
MUTATIONS: Final[tuple[Mutation, ...]] = (
    truncate, extend, flip, huge, special, noise, zero, splice, random, anything,
)  # fmt: skip
_SPECIALS: Final = (float("nan"), float("inf"), -1.0, 3.4028234663852886e38, 1e-45, -0.0, 0.0)


def overwrite(data: bytes, at: int, patch: bytes) -> bytes:
    """`patch` written over data from `at` on; nothing grows."""
    return (data[:at] + patch + data[at + len(patch) :])[: len(data)]
