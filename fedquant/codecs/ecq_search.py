"""How ECQ finds its step: the coarsest under an error, or the finest under a size.

Steps are searched by their float32 bit patterns, which order like the steps: 2**23 patterns double one. A
large vector is searched in a sample first. Every sum has a fixed order and every function used is
exactly rounded, so that equal vectors give equal steps on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fedquant.codecs.base import Array, Spec
from fedquant.errors import CodecError
from fedquant.kernels import scan, steps

RHO: Final = 27 / 64
"""⌊|x|/step + ρ⌋: at most .5 % above the best ρ's rate for Gaussian and Laplacian numbers."""
RHO_SPARSE: Final = 1 / 4
"""The same where few numbers are sent; heavy tails gain up to 5 %."""
FINEST: Final = 1 << 22  # max |x| is at most so many steps
SMALL: Final = 4096  # numbers, or bytes: two bytes of a step are worth more than its precision
_SAMPLE: Final = 1 << 18
_RESOLUTION: Final = 1 << 12  # patterns: a ratio of 1 + 2**-11
_OCTAVE: Final = 1 << 23
_SLACK: Final = 1 / 256  # of a large vector's target that may stay unused
_TRIES: Final = 40
_TOP: Final = float(steps.TOP)


@dataclass(frozen=True)
class Fit:
    """What integers stand for, and ‖x̂ − x‖² with it. Without centroids the step has 8 significant bits."""

    step: np.float32
    centroids: npt.NDArray[np.int8] | None
    error: float


def fits(moments: Array, step: np.float32) -> tuple[Fit, Fit]:
    """(centroids of the classes, the best single step) from the moments of what `step` quantized."""
    width, squares = float(step), sum(moments[:, 3].tolist())
    centroids, error = steps.MIDDLE.copy(), squares
    for c, (count, _, e, _, _) in enumerate(moments[1:].tolist()):
        if count:
            centroids[c] = max(-128, min(127, round(256 * e / (count * width))))
            shift = float(centroids[c]) / 256 * width
            error += shift * (count * shift - 2 * e)
    k2, ke = sum(moments[:, 1].tolist()), sum(moments[:, 4].tolist())
    lean = shortened(width + ke / k2 if k2 else width, nearest=True)
    off = float(lean) - width
    lean_error = squares + off * (off * k2 - 2 * ke) if lean > 0 else math.inf
    return Fit(step, centroids, max(0.0, error)), Fit(lean, None, max(0.0, lean_error))


def shortened(step: steps.Width, nearest: bool = False) -> np.float32:
    """float32 with its lower 16 bits zero: at most `step`, or nearest to it; 0 where it is denormal."""
    bits = pattern(min(float(step), _TOP)) + (0x8000 if nearest else 0)
    return step_of(min(bits, 0x7F7FFFFF) & 0x7FFF0000)


def rounded_down(step: float) -> np.float32:
    """The largest float32 of at most `step`, but at least the smallest one above 0."""
    near = np.float32(min(step, _TOP))
    if float(near) > step:
        near = np.nextafter(near, np.float32(0), dtype=np.float32)
    return max(near, step_of(1))


def pattern(step: steps.Width) -> int:
    """The bits of a positive float32."""
    return int(np.float32(step).view(np.int32))


def step_of(bits: int) -> np.float32:
    """The float32 of these bits."""
    return np.int32(bits).view(np.float32)


def finest(top: float) -> int:
    """The pattern of the finest step for numbers up to `top`."""
    return pattern(rounded_down(top / FINEST))


def coarsest(top: float) -> int:
    """The pattern of a step that rounds all numbers up to `top` to 0, unless float32 ends before."""
    return pattern(min(2 * top, _TOP))


def _resolution(bits: int) -> int:
    """Patterns that need not be told apart; each counts where steps are denormal."""
    return max(1, min(_RESOLUTION, bits >> 8))


def sample(x: Array, spec: Spec) -> tuple[Array, Spec]:
    """Every s-th number, s odd, so that at most 2**17 are left, and where segments end there."""
    stride = -(-x.size // _SAMPLE) | 1
    first = stride // 2
    part = np.ascontiguousarray(x[first::stride])
    ends = [min(part.size, max(0, -(-(end - first) // stride))) for end in spec.segments]
    return part, Spec(part.size, segments=tuple(dict.fromkeys(e for e in ends if e)))


# ---- under an error


def under_error(x: Array, spec: Spec, most: float, top: float, rho: float) -> tuple[steps.Steps, Fit] | None:
    """(integers, fit) of about the coarsest step with ‖x̂ − x‖² ≤ most < ‖x‖²; None if none is fine enough."""
    part, _ = sample(x, spec)
    low, high = finest(top), coarsest(top)
    share = most * (part.size / x.size)
    while high - low > _resolution(high):
        middle = (low + high) // 2
        step = step_of(middle)
        rich, _ = fits(steps.moments(part, steps.to_steps(part, step, rho), step), step)
        low, high = (middle, high) if rich.error <= share else (low, middle)
    return _refine(x, most, low, finest(top), rho, part.size == x.size)


def _refine(
    x: Array, most: float, bits: int, least: int, rho: float, exact: bool
) -> tuple[steps.Steps, Fit] | None:
    """From a step that suits a sample to one that suits x."""
    best: tuple[steps.Steps, Fit] | None = None
    good, bad, aim = 0.0, math.inf, most * (1 - _SLACK / 2)
    for _ in range(_TRIES):
        step = step_of(bits)
        q = steps.to_steps(x, step, rho)
        rich, lean = fits(steps.moments(x, q, step), step)
        fit, width = lean if lean.error <= most else rich, float(step)
        if fit.error <= most:
            good, best = width, (q, fit)
            if exact or rich.error >= most * (1 - _SLACK):
                break
        else:
            bad = width
        # The error grows about as step²; where that leaves what is known, halve the rest.
        width *= math.sqrt(min(4.0, max(0.25, aim / rich.error))) if rich.error else 2.0
        if not good < width < bad:
            width = (good + bad) / 2
        bits, last = max(least, pattern(width)), bits
        if bits == last or (best is not None and bad - good < good * 2.0**-11):
            break
    return best


# ---- under a size

Compose = Callable[[Array, Spec, np.float32], tuple[float, bytes]]
"""(error, body) of a vector with a step."""


def under_size(compose: Compose, x: Array, spec: Spec, most: int, low: int, high: int) -> bytes | None:
    """The body of least error found of at most `most` bytes; None where the pattern `high` takes more."""
    # A Gaussian vector at b ≥ 1 bit a number has a step of about 4·2**−b standard deviations.
    octaves = 2 - 8 * most / x.size
    guess = pattern(rounded_down(math.sqrt(scan.sum_squares(x) / x.size))) + int(octaves * _OCTAVE)
    slope = x.size / 8 / _OCTAVE
    part, part_spec = sample(x, spec)
    times = x.size / part.size
    if times > 1:
        rough = _Search(lambda step: compose(part, part_spec, step), int(most / times) + 1, low, high, 1 / 64)
        rough.run(guess, slope / times)
        guess, slope = rough.high, rough.slope * times
    exact = _Search(lambda step: compose(x, spec, step), most, low, high, _SLACK if most > SMALL else 0.0)
    exact.run(guess, slope)
    if most <= SMALL and times == 1:
        exact.look_around()
    return exact.best


class _Search:
    """Over bodies of at most `most` bytes, which mostly get fewer as the pattern in (low, high] rises.

    slack: the share of `most` that may stay unused.
    """

    def __init__(
        self,
        body_of: Callable[[np.float32], tuple[float, bytes]],
        most: int,
        low: int,
        high: int,
        slack: float = 0.0,
    ) -> None:
        self.body_of, self.most, self.low, self.high = body_of, most, low, high
        self.enough, self.aim = most * (1 - slack), most * (1 - slack / 2)
        self.long: int | None = None  # the size at `low`, once it is known
        self.short: int | None = None  # the size at `high`, once it is known
        self.best: bytes | None = None
        self.error = math.inf  # of the best

    @property
    def slope(self) -> float:
        """Bytes a pattern between the ends."""
        fall = (self.long or self.most) - (self.short or 0)
        return max(fall, 1) / max(self.high - self.low, _RESOLUTION)

    def run(self, bits: int, slope: float) -> None:
        """From a guess outwards, then by secants and halving."""
        reach = float(_RESOLUTION)
        for turn in range(_TRIES):
            bits = min(max(bits, self.low + 1), self.high - 1)
            size = self._try(bits)
            if size <= self.most:
                self.high, self.short = bits, size
            else:
                self.low, self.long = bits, size
            if self.high - self.low <= _resolution(self.high) or self.enough <= size <= self.most:
                break
            if self.long is not None and self.short is not None:
                part = min(max((self.aim - self.short) / (self.long - self.short), 1 / 32), 31 / 32)
                bits = self.high - int((self.high - self.low) * (part if turn % 3 else 0.5))
            else:
                over = (size - self.aim) / slope
                bits += int(max(reach, over) if self.long else min(-reach, over))
                reach = 2 * max(reach, abs(over))
        if self.short is None:
            self._try(self.high)

    def look_around(self) -> None:
        """A little below `high`: where few numbers are sent, sizes jump."""
        for i in range(1, 17):
            self._try(max(self.low, self.high - i * (_OCTAVE >> 6)))

    def _try(self, bits: int) -> int:
        """The size at a pattern; keeps the body if it is the best."""
        error, body = self.body_of(step_of(bits))
        if len(body) <= self.most and error < self.error:
            self.error, self.best = error, body
        return len(body)


# ---- without bias


def unbiased_step(x: Array, nmse: float, top: float) -> tuple[np.float32, bool]:
    """(the coarsest step known to meet E‖x̂ − x‖² ≤ nmse·‖x‖², whether the dither is subtracted)."""
    squares = scan.sum_squares(x)
    small = shortened if x.size <= SMALL else rounded_down
    width, plain = math.sqrt(12 * nmse * squares / x.size), (1 + nmse) * squares / scan.sum_abs(x)
    for wanted, subtracted in ((plain, False), (width, True)):
        step = small(wanted) or rounded_down(wanted)
        if subtracted or (step >= top and plain > width):
            break
    if pattern(float(step)) < finest(top):
        raise CodecError(f"ecq: nmse={nmse:g} takes steps finer than max |x|/{FINEST}; allow more")
    return step, subtracted


def subtracts(x: Array, step: float, top: float) -> bool:
    """Whether subtracting the dither lessens the error: n·step²/12, or Σ|x|(step − |x|) if step ≥ max |x|."""
    return step < top or x.size * step * step / 12 <= step * scan.sum_abs(x) - scan.sum_squares(x)
