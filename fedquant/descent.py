"""What server and nodes both derive from a scenario that descends, so that none of it is ever sent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from fedquant import registry
from fedquant.codecs.base import Codec, Spec
from fedquant.differential import methods, several
from fedquant.differential.arrays import F64
from fedquant.differential.problems import Problem
from fedquant.differential.quantizers import RangeCodec
from fedquant.errors import CodecError, ConfigError
from fedquant.keys import Direction, Key, Purpose
from fedquant.scenario.descent import DescentUplink
from fedquant.scenario.schema import Scenario
from fedquant.tasks.convex import ConvexTask
from fedquant.wire import NO_KNOBS, Knobs

NORM: Final = Spec(1, "float64")
"""Of the norm that a worker with memory sends once."""

_GRID: Final = 1024  # rates are multiples of 1/1024, lest machines differ in the last digit of L_k


@dataclass(frozen=True, eq=False)
class Descent:
    """A method, f, the f_k of each worker and its codec. method: Shares where workers keep memories."""

    scenario: Scenario
    problem: Problem
    workers: tuple[Problem, ...]
    rows: tuple[int, ...]
    spec: Spec
    codecs: tuple[Codec, ...]
    method: methods.Plan | several.Shares

    @property
    def quantized(self) -> bool:
        """Whether codecs have ranges."""
        return isinstance(self.codecs[0], RangeCodec)

    @property
    def slots(self) -> tuple[Purpose, ...]:
        """What a worker's reply holds, in order; the norm in the first round alone."""
        if isinstance(self.method, several.Shares):
            return (Purpose.GRADIENT, Purpose.RANGE)
        return (Purpose.GRADIENT,)

    def up(self, round: int, worker: int, purpose: Purpose = Purpose.GRADIENT) -> Key:
        """The key of an uplink payload."""
        return self.scenario.key.fold(round=round, sensor=worker, purpose=purpose, direction=Direction.UP)

    def down(self, round: int) -> Key:
        """The key of a broadcast iterate."""
        return self.scenario.key.fold(round=round, purpose=Purpose.MODEL, direction=Direction.DOWN)


def make_descent(scenario: Scenario) -> Descent:
    """The descent of a scenario; its problem is made once a process.

    Raises ConfigError, DataError, and CodecError for vectors that the codec cannot code.
    """
    return _make_descent(scenario.to_json())


@lru_cache(maxsize=4)
def _make_descent(text: str) -> Descent:
    scenario = Scenario.model_validate_json(text)
    uplink, task = scenario.uplink, scenario.build_task
    if not isinstance(uplink, DescentUplink) or not isinstance(task, ConvexTask):
        raise TypeError(f"{scenario.name} trains a network; use fedquant.plan.make_plan")
    data = task.load(scenario.key)
    spec = Spec(data.problem.x0.size, "float64")
    codecs = _codecs(uplink, data.workers, spec)
    q = [c.covering_ratio(spec) if isinstance(c, RangeCodec) else 0.0 for c in codecs]
    method: methods.Plan | several.Shares
    if uplink.method == "nq-gd" and len(codecs) > 1:
        method = several.shares(data.problem, data.workers, q)
    else:
        method = methods.plan(uplink.method, data.problem, q[0])
    return Descent(scenario, data.problem, data.workers, data.rows, spec, codecs, method)


def _codecs(uplink: DescentUplink, workers: tuple[Problem, ...], spec: Spec) -> tuple[Codec, ...]:
    """The uplink's codec for each worker, with its share of the total rate."""
    uplink.codec.check(spec)
    if uplink.total_rate is None:
        return (uplink.codec,) * len(workers)
    rates = several.allocate([float(w.L) for w in workers], uplink.total_rate)
    rates = np.floor(rates * _GRID + 1e-6) / _GRID
    codecs = []
    for k, rate in enumerate(rates.tolist()):
        try:
            codec = registry.create("codec", {**registry.config(uplink.codec), "bits": rate})
            codec.check(spec)
        except (ConfigError, CodecError) as error:
            raise ConfigError(
                f"uplink.total_rate={uplink.total_rate:g} leaves worker {k} {rate:.3g} bit/coordinate: "
                f"{error}; give more, or have fewer workers"
            ) from None
        codecs.append(codec)
    return tuple(codecs)


# ---- ranges, as a knob for all workers


def range_knobs(ranges: F64) -> dict[str, Knobs]:
    """The knob that tells each worker its range: float64[K], little-endian."""
    return {"codec": {"range": ranges.astype("<f8").tobytes()}}


def own_range(knobs: dict[str, Knobs], worker: int, workers: int) -> Knobs:
    """What worker's codec is told: its 8 bytes of the knob, or nothing without. Raises CodecError."""
    packed = knobs.get("codec", NO_KNOBS).get("range")
    if packed is None:
        return NO_KNOBS
    if not isinstance(packed, bytes) or len(packed) != 8 * workers:
        raise CodecError(f"knob range: expected {workers} float64, got {packed!r}")
    return {"range": packed[8 * worker : 8 * (worker + 1)]}
