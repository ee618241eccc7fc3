"""Shared randomness: a key names one stream of a run, and a counter names one draw of it.

A key packs (round, sensor, purpose, direction, part, stream) into 64 bits, so different fields never
share a word, and mixes them with the seed by bijections of 64-bit words: within one run the key
words of any two streams differ. Draw i of a stream is a pure function of (word, i); no order of
evaluation, batch size or machine changes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Final

_MASK: Final = (1 << 64) - 1
_LIMITS: Final = {"round": 22, "sensor": 22, "purpose": 5, "direction": 1, "part": 10, "stream": 4}


class Purpose(IntEnum):
    """What a stream of draws, or a payload, is for. Values are part of the wire format."""

    PLAIN = 0  # library use outside a run
    GRADIENT = 1
    DATA = 2
    MODEL = 3
    BUFFERS = 4
    CORRECTION = 5
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
        for name, value in (("seed", self.seed), ("run", self.run)):
            if not 0 <= value <= _MASK:
                raise ValueError(f"key: {name}={value} is outside [0, 2**64)")
        for name, bits in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value < 1 << bits:
                raise ValueError(f"key: {name}={value} is outside [0, 2**{bits})")

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
        given = {
            "round": round,
            "sensor": sensor,
            "purpose": purpose,
            "direction": direction,
            "part": part,
            "stream": stream,
        }
        return replace(self, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]

    @cached_property
    def word(self) -> int:
        """uint64: distinct for distinct fields of one seed."""
        packed = 0
        for name, bits in _LIMITS.items():
            packed = packed << bits | int(getattr(self, name))
        return _mix((_mix(packed) + _mix(self.seed ^ 0x9E3779B97F4A7C15)) & _MASK)
