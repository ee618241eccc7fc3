"""Everything that one run of the benchmark found."""

from __future__ import annotations

from dataclasses import dataclass

from fedquant.bench.codecs import CodecRow
from fedquant.bench.coding import CodingRow
from fedquant.bench.distortion import Comparison
from fedquant.bench.kernels import KernelRow
from fedquant.bench.small import SmallRow
from fedquant.machine import Machine


@dataclass(frozen=True)
class Results:
    """missing: what could not be measured at all, and why."""

    machine: Machine
    command: str
    seconds: float
    numbers: int
    kernels: list[KernelRow]
    coding: list[CodingRow]
    codecs: list[CodecRow]
    data_codecs: list[CodecRow]
    small: list[SmallRow]
    comparisons: list[Comparison]
    missing: dict[str, str]
