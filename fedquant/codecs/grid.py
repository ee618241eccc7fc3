"""Samples on their grids: levels in steps of B/(m−1), B the scale of a batch (max) or of each sample (l2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from fedquant.codecs.data import Array
from fedquant.errors import CodecError
from fedquant.kernels import quantize, scan


def l2_scale(x: Array, name: str) -> np.float32:
    """‖x‖₂ rounded up to float32. Raises CodecError, in the name of codec `name`, where it does not fit."""
    norm = math.sqrt(scan.sum_squares(x))
    if norm > float(np.finfo(np.float32).max):
        raise CodecError(f"{name}: the l2 norm {norm:g} does not fit float32; scale by the largest magnitude")
    scale = np.float32(norm)
    return scale if float(scale) >= norm else np.nextafter(scale, np.float32(np.inf), dtype=np.float32)


def l2_levels(
    x: Array, scales: Array, s: int, rounding: quantize.Rounding = "floor", draws: Array | None = None
) -> Array:
    """int32[n, d] in [−s, s] of x: float32[n, d] and each row's `l2_scale`; draws: [n, d], for stochastic.

    float64 makes them exact: unless |x|·s/B is an integer it differs from one by 2⁻²⁴/s of itself or more.
    Nor can the error of the norm, some 2⁻⁵⁰, lift the integer Σc² of floor above s².
    """
    t = np.abs(x).astype(np.float64)
    t *= s
    wide = scales.astype(np.float64)[:, None]
    np.divide(t, wide, out=t, where=wide > 0)
    if rounding == "nearest":
        t += 0.5
    elif rounding == "stochastic":
        t += np.asarray(draws)
    levels = t.astype(np.int32)
    np.negative(levels, out=levels, where=x < 0)
    return levels


def l2_values(levels: Array, scales: Array, s: int) -> Array:
    """float32[n, d]: c·B/s in float64, rounded once."""
    wide = levels * scales.astype(np.float64)[:, None]
    wide /= s
    return wide.astype(np.float32)


@final
@dataclass(frozen=True)
class Quantized:
    """n samples on their grids: levels int32[n, size] in steps of B/(m−1), scales B float32[n]."""

    levels: Array
    scales: Array
    m: int
    scale: Literal["max", "l2"]

    def samples(self) -> Array:
        """float32[n, size]."""
        s = self.m - 1
        if self.scale == "l2":
            return l2_values(self.levels, self.scales, s)
        out = np.zeros(self.levels.shape, np.float32)
        for scale, rows in self._batches():
            codes = (self.levels[rows] + s).astype(np.uint32).reshape(-1)
            out[rows] = quantize.from_levels(codes, scale, s).reshape(out[rows].shape)
        return out

    def on_grid(self, x: Array, m: int) -> Array:
        """int32[n, size]: x rounded toward zero on these scales, with m levels."""
        if self.scale == "l2":
            return l2_levels(x, self.scales, m - 1)
        out = np.zeros(x.shape, np.int32)
        for scale, rows in self._batches():
            codes = quantize.to_levels(x[rows].reshape(-1), scale, m - 1)
            out[rows] = (codes.astype(np.int32) - np.int32(m - 1)).reshape(out[rows].shape)
        return out

    def _batches(self) -> Iterator[tuple[float, Array]]:
        """(scale, bool[n]: the samples that have it), but for 0."""
        for scale in np.unique(self.scales[self.scales > 0]):
            yield float(scale), self.scales == scale

    @property
    def error_bound(self) -> float:
        """B̄·√size/(m−1), B̄ the mean scale: what the mean of ‖z − z_Q‖₂ does not exceed (paper, (8))."""
        mean = math.fsum(self.scales.tolist()) / max(1, len(self.scales))
        return mean * math.sqrt(self.levels.shape[1]) / (self.m - 1)
