"""Shared randomness: a key names one stream of a run, and a counter names one draw of it.

A key packs (round, sensor, purpose, direction, part, stream) into 64 bits, so different fields never
share a word, and mixes them with the seed by bijections of 64-bit words: within one run the key
words of any two streams differ. Draw i of a stream is a pure function of (word, i); no order of
evaluation, batch size or machine changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Final

_MASK: Final = (1 << 64) - 1
_BITS: Final = {
    "seed": 64,
    "run": 64,
    "round": 22,
    "sensor": 22,
    "purpose": 5,
    "direction": 1,
    "part": 10,
    "stream": 4,
}


class Purpose(IntEnum):
    """What a stream of draws, or a payload, is for. Values are part of the wire format."""

    PLAIN = 0  # library use outside a run
    GRADIENT = 1
    DATA = 2
    MODEL = 3
    BUFFERS = 4
    CORRECTION = 5
    REFINEMENT = 6
    RANGE = 7
    INIT = 16
    PARTITION = 17
    BATCH = 18
    SENSORS = 19
    REPLAY = 20
    SELECTION = 21
    SHUFFLE = 22
    LINK = 23
    CHURN = 24


class Direction(IntEnum):
    """Which way a payload travels."""

    UP = 0
    DOWN = 1


def _mix(x: int) -> int:
    """A bijection of 64-bit words (the finalizer of SplitMix64)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


@lru_cache(maxsize=64)
def _seed_word(seed: int) -> int:
    return _mix(seed ^ 0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Key:
    """Names one stream of a run; `run` is its identity on the wire and changes no draw.

    Ranges: seed, run < 2**64; round, sensor < 2**22; part < 2**10; stream < 2**4.
    Raises ValueError where a field is outside its range.
    """

    seed: int
    run: int = 0
    round: int = 0
    sensor: int = 0
    purpose: Purpose = Purpose.PLAIN
    direction: Direction = Direction.UP
    part: int = 0
    stream: int = 0

    def __post_init__(self) -> None:
        # A value out of range leaves bits behind, a negative one too.
        beyond = self.seed >> 64 | self.run >> 64 | self.round >> 22 | self.sensor >> 22
        if beyond | self.purpose >> 5 | self.direction >> 1 | self.part >> 10 | self.stream >> 4:
            self._refuse()

    def _refuse(self) -> None:
        for name, bits in _BITS.items():
            if (value := getattr(self, name)) < 0 or value >> bits:
                raise ValueError(f"key: {name}={value:d} is outside [0, 2**{bits})")

    def fold(
        self,
        *,
        round: int | None = None,
        sensor: int | None = None,
        purpose: Purpose | None = None,
        direction: Direction | None = None,
        part: int | None = None,
        stream: int | None = None,
    ) -> Key:
        """The key with the given fields set."""
        return Key(
            self.seed,
            self.run,
            self.round if round is None else round,
            self.sensor if sensor is None else sensor,
            self.purpose if purpose is None else purpose,
            self.direction if direction is None else direction,
            self.part if part is None else part,
            self.stream if stream is None else stream,
        )

    @cached_property
    def word(self) -> int:
        """uint64: distinct for distinct fields of one seed."""
        packed = (self.round << 22 | self.sensor) << 5 | self.purpose
        packed = ((packed << 1 | self.direction) << 10 | self.part) << 4 | self.stream
        return _mix((_mix(packed) + _seed_word(self.seed)) & _MASK)
