"""Rules that DQSGD is compared with: they follow moments of the mean gradient, over rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

from pydantic import Field

from fedquant.control.base import MIN_BITS, Horizon, Mean, Memory
from fedquant.control.rules import Bits, Stepwise, running, usable
from fedquant.kernels import scan


@final
@dataclass(frozen=True)
class Adaptive(Stepwise):
    """More bits for a larger root mean square of the mean gradient: max_bits + log2(RMS/its largest so far).

    RMS² is a running mean over rounds.
    Oland & Raj, "Reducing Communication Overhead in Distributed Learning by an Order of Magnitude (Almost)"
    (2015), as DQSGD describes it. The formula, which keeps a level as wide as it was where the gradient was
    largest, and the defaults are ours.
    """

    name: ClassVar[str] = "adaptive"

    initial_bits: Bits = 8

    def observe(
        self,
        memory: Memory,
        round: int,
        mean: Mean | None,
        payload_bytes: Mapping[int, int],
        horizon: Horizon,
    ) -> Memory:
        if not usable(mean):
            return memory
        square = running(memory, "square", scan.sum_squares(mean) / mean.size)
        peak = max(square, memory.get("peak", 0.0))
        bits = self.max_bits + math.log2(square / peak) / 2 if square else MIN_BITS
        step = max(MIN_BITS, math.floor(bits + 0.5))
        return {**memory, "square": square, "peak": peak, "step": step}


@final
@dataclass(frozen=True)
class AdaQS(Stepwise):
    """Few bits early, and one more for each time that the mean-to-deviation ratio has fallen by `fall`.

    The ratio is m/√(v − m²), m and v being running means over rounds of the mean |g_i| and the mean g_i²
    of the mean gradient. It falls as gradients grow more peaked, which coarse levels serve worst. Bits never
    decrease.
    Guo et al., "Accelerating Distributed Deep Learning by Adaptive Gradient Quantization" (2020), as DQSGD
    describes it. Magnitudes instead of signed values, the steps by `fall` and all defaults are ours.
    """

    name: ClassVar[str] = "adaqs"

    fall: Annotated[float, Field(gt=0, lt=1)] = 0.8

    def observe(
        self,
        memory: Memory,
        round: int,
        mean: Mean | None,
        payload_bytes: Mapping[int, int],
        horizon: Horizon,
    ) -> Memory:
        if not usable(mean):
            return memory
        m = running(memory, "m", scan.sum_abs(mean) / mean.size)
        v = running(memory, "v", scan.sum_squares(mean) / mean.size)
        after = {**memory, "m": m, "v": v}
        if not 0 < m * m < v:
            return after  # all of one magnitude: no deviation
        ratio = m / math.sqrt(v - m * m)
        first = after.setdefault("first", ratio)
        wanted = math.floor(self.initial_bits + math.log(ratio / first, self.fall) + 0.5)
        return {**after, "step": max(after["step"], min(self.max_bits, wanted))}
