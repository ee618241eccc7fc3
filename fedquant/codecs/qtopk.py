"""QTopK: the numbers of largest magnitude, quantized by another codec.

Basu, Data, Karakus, Diggavi, "Qsparse-local-SGD" (2019), section 3. Biased: wrap it in error feedback.

Body: the set of all indices kept (see `indices`), then the inner codec's body of the values in their order.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar, Final, final

from fedquant.codecs.base import Array, Codec, Spec
from fedquant.codecs.qsgd import QSGD
from fedquant.codecs.topk import LargestEntries
from fedquant.errors import CodecError

DEFAULT_INNER: Final = QSGD(bits=4, scope="segment")


@final
@dataclass(frozen=True)
class QTopK(LargestEntries):
    """The values as `inner`, a stateless codec of float32, codes them; its segments are the groups.

    ratio, k: how many of each group are kept; scope: the groups: the "whole" vector, each "segment"
    (layer), or buckets of that many numbers.
    """

    name: ClassVar[str] = "qtopk"

    inner: Codec = DEFAULT_INNER

    @property
    def value_codec(self) -> Codec:
        """The inner codec."""
        return self.inner

    @property
    def accepted_knobs(self) -> Set[str]:
        """The inner codec's."""
        return self.inner.accepted_knobs

    def check(self, spec: Spec) -> None:
        """Raises CodecError for anything but float32, or an inner codec that refuses it or keeps state."""
        super().check(spec)
        if self.inner.state_spec(self.value_spec(spec)):
            raise CodecError(
                f"qtopk: inner {self.inner.name} keeps state from one payload to the next, while the indices "
                "change; wrap qtopk in it instead"
            )

    def finish(self, total: Array, weight: float) -> Array:
        """The inner codec's."""
        return self.inner.finish(total, weight)
