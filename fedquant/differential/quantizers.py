"""The codecs `uniform` and `ball` over many vectors at once: the same numbers, bit for bit, without bytes."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from fedquant.codecs.ball import grid
from fedquant.codecs.base import Spec
from fedquant.codecs.uniform import split_levels
from fedquant.differential.arrays import F64, col
from fedquant.errors import CodecError


class Quantizer(Protocol):
    """q: ‖p − u‖₂ ≤ q·r wherever ‖u‖₂ ≤ r; rho = (number of cells)^(1/n)·q, its covering efficiency (16)."""

    @property
    def q(self) -> float: ...
    @property
    def rho(self) -> float: ...

    def __call__(self, u: F64, r: F64) -> F64:
        """p: float64[…, n] of u: float64[…, n] with range r: float64[…] > 0.

        Raises CodecError where u is outside the range.
        """


@runtime_checkable
class RangeCodec(Protocol):
    """A codec with a knob `range` = r, of which ‖x̂ − x‖₂ ≤ q·r is known wherever ‖x‖₂ ≤ r."""

    def covering_ratio(self, spec: Spec) -> float:
        """q."""


class Cube:
    """M_i midpoints a dimension of [−r, r]^n, as the codec `uniform`: R = `bits` bit/coordinate."""

    def __init__(self, n: int, bits: float) -> None:
        self._levels = np.concatenate([np.full(run, float(m)) for run, m in split_levels(n, float(bits))])

    @cached_property
    def q(self) -> float:
        """√ΣM_i⁻²."""
        return math.sqrt(float(np.sum(self._levels**-2.0)))

    @property
    def rho(self) -> float:
        """(ΠM_i)^(1/n)·q."""
        return self.q * float(2 ** np.log2(self._levels).mean())

    def __call__(self, u: F64, r: F64) -> F64:
        """r·(2c + 1 − M)/M with c = ⌊(u/r + 1)·M/2⌋, and M − 1 for u = r. Raises CodecError."""
        side, levels = col(r), self._levels
        _refuse("uniform", np.abs(u).max(axis=-1), r, np.asarray(np.abs(u).max(axis=-1) <= r))
        cell = u / side
        cell += 1
        cell *= levels / 2
        codes = np.minimum(np.floor(cell), levels - 1)
        codes *= 2
        codes += 1 - levels
        codes /= levels
        codes *= side
        return np.asarray(codes)


class Ball:
    """The cells of a cubic grid that meet the ball, as the codec `ball`: at most `bits` bit/coordinate."""

    def __init__(self, n: int, bits: float) -> None:
        self._grid = grid(n, float(bits))

    @property
    def q(self) -> float:
        """Half the diagonal of a cell, for r = 1."""
        return self._grid.covering_ratio

    @property
    def rho(self) -> float:
        """(number of cells)^(1/n)·q."""
        return self._grid.covering_efficiency

    def __call__(self, u: F64, r: F64) -> F64:
        """The midpoint of u's cell. Raises CodecError."""
        magnitudes = self._grid.magnitudes(u, np.asarray(r))
        _refuse("ball", np.linalg.norm(u, axis=-1), r, self._grid.keeps(magnitudes))
        return self._grid.midpoints(magnitudes, u < 0, np.asarray(r))


def _refuse(name: str, size: F64, r: F64, fits: npt.NDArray[np.bool_]) -> None:
    if not fits.all():
        at = int(np.argmin(fits))
        given, limit = np.ravel(size)[at], np.ravel(np.broadcast_to(r, fits.shape))[at]
        raise CodecError(f"{name}: {given} of instance {at} is outside r = {limit}; L, μ or D do not hold")
