"""Top-k: the numbers of largest magnitude, as floats.

Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory" (2018). Biased: wrap it in error feedback.

Body: the set of all indices kept (see `indices`), then the values in their order, little-endian.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Annotated, ClassVar, Final, Literal, final

import numpy as np
from pydantic import Field

from fedquant.codecs.base import EMPTY, Array, Body, Codec, Spec, State
from fedquant.codecs.configured import ENCODER_ONLY
from fedquant.codecs.floats import BFloat16, Float16, Float32
from fedquant.codecs.groups import Scope, groups
from fedquant.codecs.indices import decode_indices, encode_indices
from fedquant.codecs.scattered import Scattered, scatter
from fedquant.errors import CodecError
from fedquant.kernels import topk
from fedquant.keys import Key
from fedquant.wire import Knobs

DEFAULT_RATIO: Final = 0.01
_FLOATS: Final = {"float32": Float32(), "float16": Float16(), "bfloat16": BFloat16()}


@dataclass(frozen=True)
class LargestEntries(Scattered):
    """Keeps `k`, or ⌈ratio·n⌉, of each group of n numbers; another codec codes their values.

    The ratio counts as the decimal it is written as: 0.07 of 100 is 7. A group of n < k is kept whole.
    entropy: indices also tried entropy-coded, which pays where they come in clusters.
    Raises ValueError where both are given; neither means ratio 0.01.
    """

    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    k: Annotated[int, Field(ge=1)] | None = None
    scope: Scope = "whole"
    entropy: bool = field(default=False, metadata=ENCODER_ONLY)

    def __post_init__(self) -> None:
        if self.ratio is not None and self.k is not None:
            raise ValueError(f"{self.name}: ratio={self.ratio:g} and k={self.k} are both given; give one")
        if self.k is None:  # 1 and 1.0 are one configuration, so they must be one text in the checksum
            object.__setattr__(self, "ratio", float(DEFAULT_RATIO if self.ratio is None else self.ratio))

    @property
    @abstractmethod
    def value_codec(self) -> Codec:
        """What codes the values kept."""

    def kept(self, n: int) -> int:
        """How many of a group of n ≥ 1 numbers are kept: at least one."""
        if self.k is not None:
            return min(self.k, n)
        return _share(DEFAULT_RATIO if self.ratio is None else self.ratio, n)

    def value_spec(self, spec: Spec) -> Spec:
        """What `value_codec` codes: all values kept, a segment a group."""
        ends = tuple(accumulate(self.kept(stop - start) for start, stop in groups(spec, self.scope)))
        return Spec(ends[-1] if ends else 0, segments=ends)

    def check(self, spec: Spec) -> None:
        """Raises CodecError for anything but float32, or where the values' codec refuses them."""
        super().check(spec)
        self.value_codec.check(self.value_spec(spec))

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        chosen = [
            start + topk.largest(x[start:stop], self.kept(stop - start))
            for start, stop in groups(spec, self.scope)
        ]
        indices = np.concatenate([np.zeros(0, np.int64), *chosen])
        try:
            values = self.value_codec._encode_body(x[indices], self.value_spec(spec), key, EMPTY, knobs)
        except CodecError as error:
            raise CodecError(f"{self.name}: of the values kept, {error}") from None
        data = encode_indices(indices, spec.size, self.entropy) + values.data
        return Body(data, lambda: scatter(indices, values.decoded(), spec.size), state)

    def _entries(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        inner = self.value_spec(spec)
        indices, at = decode_indices(data, 0, spec.size, inner.size)
        stops = [stop for _, stop in groups(spec, self.scope)]
        if not np.array_equal(np.searchsorted(indices, stops), inner.segments[: len(stops)]):
            raise CodecError(f"{self.name}: a group does not keep as many numbers as it must")
        return indices, self.value_codec._decode_body(data[at:], inner, key, knobs)


@lru_cache(maxsize=4096)
def _share(ratio: float, n: int) -> int:
    return math.ceil(Fraction(repr(ratio)) * n)


@final
@dataclass(frozen=True)
class TopK(LargestEntries):
    """The values as float32, float16 (|x| < 65520) or bfloat16, all rounded to nearest even.

    ratio, k: how many of each group are kept; scope: the groups: the "whole" vector, each "segment"
    (layer), or buckets of that many numbers.
    """

    name: ClassVar[str] = "topk"

    values: Literal["float32", "float16", "bfloat16"] = "float32"

    @property
    def value_codec(self) -> Codec:
        """Plain floats."""
        return _FLOATS[self.values]
