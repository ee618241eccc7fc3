"""How QCS cuts a vector, what that costs, what error it allows, and the best cut for a number of bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Final

from fedquant.kernels import pack
from fedquant.kernels.reference.hadamard import MAX_LEVELS, at_least, orders

PLANAR: Final = {2: 1, 4: 2, 16: 4, 256: 8}
"""Counts of levels whose codes fill whole bits, to these bits; the others are packed in mixed radix."""


@cache
def _log(k: int) -> float:
    """ln k, the same on every machine: both sides choose by it."""
    return float(Decimal(k).ln())


def gamma(n: int, k: int, levels: int, short: bool = False) -> float:
    """γ of n coordinates kept as k of 2Q+1 levels (eq. 10); `short` scales are up to 2**−7 above ‖v‖∞/Q."""
    if k == 1:
        return n - 1.0
    slack = 1 + 2.0**-7 if short else 1.0
    return n / k - 1 + slack**2 * n / (levels - 1) ** 2 * _log(k) / (k - 1)


@dataclass(frozen=True)
class Run:
    """`count` partitions of `order` coordinates from `start` on, of which k coefficients each are sent."""

    start: int
    count: int
    order: int
    k: int


@dataclass(frozen=True)
class Plan:
    """Full partitions, then one that is padded to the smallest order which holds the rest."""

    runs: tuple[Run, ...]
    levels: int
    short: bool

    def is_short(self, run: Run) -> bool:
        """Whether the run's scales take 2 bytes. A lone coefficient is its scale: it keeps all 4."""
        return self.short and run.k > 1

    @property
    def codes(self) -> int:
        """Coefficients sent."""
        return sum(run.count * run.k for run in self.runs)

    @property
    def scale_bytes(self) -> int:
        """Bytes of all scales."""
        return sum(run.count * (2 if self.is_short(run) else 4) for run in self.runs)

    @property
    def bytes(self) -> int:
        """Bytes of the body."""
        bits = PLANAR.get(self.levels)
        codes = pack.bits_size(self.codes, bits) if bits else pack.radix_size(self.codes, self.levels)
        return self.scale_bytes + codes

    def run_gamma(self, run: Run) -> float:
        """γ of a run's partitions."""
        return gamma(run.order, run.k, self.levels, self.short)

    @property
    def gamma(self) -> float:
        """γ of the worst partition; 0 for an empty vector."""
        return max((self.run_gamma(run) for run in self.runs), default=0.0)


def plan(size: int, order: int, k: int, levels: int, short: bool = False) -> Plan:
    """The cut of `size` numbers; the last partition keeps the share k/order of its own order, rounded up."""
    full, rest = divmod(size, order)
    runs = [Run(0, full, order, k)] if full else []
    if rest:
        last = at_least(rest)
        runs.append(Run(full * order, 1, last, -(-k * last // order)))
    return Plan(tuple(runs), levels if any(run.k > 1 for run in runs) else 2, short)


def useful(size: int) -> Sequence[int]:
    """The orders worth trying: beyond the first that holds everything, plans repeat."""
    return [order for order in orders() if order <= at_least(max(1, min(size, orders()[-1])))]


def smallest(size: int, share: float, levels: int, short: bool) -> Plan:
    """The plan of the fewest bytes among all orders, each keeping `share` of its coefficients."""
    plans = (plan(size, n, max(1, round(share * n)), levels, short) for n in useful(size))
    return min(plans, key=lambda p: p.bytes)


def best(size: int, budget: int, among: Sequence[int], short: bool) -> Plan | None:
    """The plan with the least γ whose body has at most `budget` bytes, or None."""
    chosen, least = None, float("inf")
    for order in reversed(among):  # large ones tend to win, and then rule the rest out
        lone = plan(size, order, 1, 2, short)
        if lone.bytes <= budget and lone.gamma < least:
            chosen, least = lone, lone.gamma
        for levels in range(MAX_LEVELS, 1, -1):
            k = max(2, int(order / (1 + least)))  # n/k − 1 < γ: fewer coefficients cannot win
            if k > order or k * size * math.log2(levels) > 8 * budget * order:  # above the entropy alone
                continue
            if plan(size, order, k, levels, short).bytes > budget:
                continue
            k = _most(size, budget, order, k, levels, short)
            found = plan(size, order, k, levels, short)
            if found.gamma < least:
                chosen, least = found, found.gamma
            if k == order:
                break  # fewer levels only lose
    return chosen


def _most(size: int, budget: int, order: int, low: int, levels: int, short: bool) -> int:
    """The largest k in [low, order] within the budget, given that `low` is."""
    high = order
    while low < high:
        middle = (low + high + 1) // 2
        if plan(size, order, middle, levels, short).bytes <= budget:
            low = middle
        else:
            high = middle - 1
    return low
