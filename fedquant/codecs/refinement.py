"""Refinement of samples that the receiver keeps: which, and the digits of the nested finer grid.

Body: how many samples are refined (a count up to those held), the set of their places (see `indices`), and
what `refine` writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import numpy as np
from pydantic import Field

from fedquant import wire
from fedquant.codecs.base import Array
from fedquant.codecs.configured import Configured
from fedquant.codecs.counts import count_size, pack_count, unpack_count
from fedquant.codecs.data import DataSpec
from fedquant.codecs.grid import Quantized
from fedquant.codecs.indices import decode_indices, encode_indices
from fedquant.codecs.refine import refine, refined
from fedquant.errors import CodecError
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS


@final
@dataclass(frozen=True)
class Refinement(Configured):
    """Each step of the grid is cut into `factor`: m levels become (m−1)·factor + 1."""

    name: ClassVar[str] = "refinement"

    factor: Annotated[int, Field(ge=2, le=1 << 15)]

    def encode(self, places: Array, x: Array, held: Quantized, among: int, spec: DataSpec, key: Key) -> bytes:
        """The payload that refines x: float32[k, size], held at places: int64[k], ascending, of `among`."""
        body, _ = refine(x, held, self.factor)
        head = pack_count(len(places), among) + encode_indices(places, among)
        return wire.frame(head + body, self.context(spec, key, NO_KNOBS))

    def decode(
        self, payload: bytes, among: int, look: Callable[[Array], Quantized], spec: DataSpec, key: Key
    ) -> tuple[Array, Quantized]:
        """(places, samples on the finer grid); look: what is held at some places. Raises CodecError."""
        data = wire.unframe(payload, self.context(spec, key, NO_KNOBS))
        k = unpack_count(data, 0, among, self.name)
        places, at = decode_indices(data, count_size(among), among, k)
        return places, refined(data[at:], look(places), self.factor)


def held_by(x: Array, scales: Array, m: int, scale: str) -> Quantized:
    """What a receiver holds of x: float32[k, size] that was rounded toward zero on `scales`: float32[k]."""
    if scale not in ("max", "l2"):
        raise CodecError(f"refinement: scale {scale!r} is not known")
    empty = Quantized(np.zeros(x.shape, np.int32), scales, m, "l2" if scale == "l2" else "max")
    return Quantized(empty.on_grid(x, m), scales, m, empty.scale)
