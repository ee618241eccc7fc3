"""Groups of numbers that share a scale, and the scales on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedquant.codecs.base import Array, Spec
from fedquant.errors import CodecError

Scope = Literal["whole", "segment"] | Annotated[int, Field(ge=1)]
"""The "whole" vector, each "segment" (layer), or buckets of that many numbers."""


@lru_cache(maxsize=256)
def groups(spec: Spec, scope: Scope) -> tuple[tuple[int, int], ...]:
    """(start, stop) of each group; none is empty."""
    if scope == "whole":
        ends: Sequence[int] = (spec.size,)
    elif scope == "segment":
        ends = spec.segments
    else:
        ends = (*range(scope, spec.size, scope), spec.size)
    return tuple((start, end) for start, end in zip((0, *ends), ends, strict=False) if end > start)


@lru_cache(maxsize=64)
def bounds(cuts: tuple[tuple[int, int], ...]) -> npt.NDArray[np.int64]:
    """int64[g + 1], read-only: where neighbouring groups begin and end."""
    out = np.array([start for start, _ in cuts[:1]] + [stop for _, stop in cuts] or [0], np.int64)
    out.flags.writeable = False
    return out


def largest(spec: Spec, scope: Scope) -> int:
    """Numbers of the largest group."""
    return max((stop - start for start, stop in groups(spec, scope)), default=0)


def pack_scales(scales: Array | Sequence[np.float32]) -> bytes:
    """One float32 a group, little-endian."""
    return np.asarray(scales, "<f4").tobytes()


def unpack_scales(data: bytes, n: int, name: str) -> Array:
    """float32[n] from the start of a body. Raises CodecError for a negative or non-finite one."""
    if len(data) < 4 * n:
        raise CodecError(f"{name}: body of {len(data)} bytes, its scales alone take {4 * n}")
    scales = np.frombuffer(data, "<f4", n).astype(np.float32)
    if n and not (scales.min() >= 0 and scales.max() < np.inf):  # a NaN fails both
        raise CodecError(f"{name}: a scale is negative or not finite")
    return scales
