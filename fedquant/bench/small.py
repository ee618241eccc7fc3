"""Round trips of 1,000 numbers through the public API: what a call costs whatever it codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fedquant import registry
from fedquant.bench.configurations import codecs
from fedquant.bench.timing import short
from fedquant.codecs.base import Spec
from fedquant.errors import CodecError
from fedquant.keys import Key, Purpose

NUMBERS: Final = 1000


@dataclass(frozen=True)
class SmallRow:
    """A codec on so many numbers: bytes of a payload with header, and seconds of CPU time on one thread."""

    name: str
    numbers: int
    payload_bytes: int
    encode: float
    decode: float

    @property
    def round_trip(self) -> float:
        """Seconds to encode and decode."""
        return self.encode + self.decode


def measure(budget: float, progress: Callable[[str], None]) -> list[SmallRow]:
    """A row a codec; no row for one that refuses such a vector."""
    x = np.random.default_rng(NUMBERS).standard_normal(NUMBERS, dtype=np.float32)
    spec, key, rows = Spec(NUMBERS), Key(1, 2, 3, 4, Purpose.GRADIENT), []
    for choice in codecs():
        progress(f"{NUMBERS} numbers: {choice.label}")
        codec = registry.create("codec", choice.config)
        try:
            state = codec.init(spec)
            payload, _ = codec.encode(x, spec, key, state)
        except CodecError:
            continue

        def encode(codec: Any = codec, state: Any = state) -> Any:
            return codec.encode(x, spec, key, state)

        def decode(codec: Any = codec, payload: bytes = payload) -> Any:
            return codec.decode(payload, spec, key)

        rows.append(
            SmallRow(choice.label, NUMBERS, len(payload), short(encode, budget), short(decode, budget))
        )
    return rows
