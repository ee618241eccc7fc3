"""Statistical tests of the generator: `python -m tests.kernels.rng_study > docs/measurements/rng.md`.

Every test reduces to normal numbers z, one a comparison. With m comparisons the largest |z| has the
p-value 1 − (1 − p₁)ᵐ, p₁ = P(|normal| > z); a test passes while that exceeds `LEVEL`.
"""

from __future__ import annotations

import argparse
import datetime
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedquant.kernels import rng
from fedquant.keys import Direction, Key, Purpose

LEVEL: Final = 1e-5
CHUNK: Final = 1 << 18  # draws held at a time
BLOCK: Final = 1 << 14  # counters an avalanche word is tried on
UPPER_BIAS: Final = 0.002
"""How far from ½ the share of flips may be for the key's upper half; `HEAD` says why."""
HEAD: Final = """\
# The random generator, tested

`python -m tests.kernels.rng_study --draws {n}`, {today}, numpy {numpy}.

z is the largest |z| of a test's comparisons and p the chance of one as large among as many independent
normal numbers; a test passes while p > {level:g}. A stream repeats no draw, so that counts vary less than
those of independent draws, by the factor √(1 − n/2³²) = {finite:.4f}.

Avalanche: n is the pairs of draws a flip, and sd = 1/(2√n). Between two keys that differ in the upper half
of the word alone stands one round of the mixer only, and a flip of one bit there flips some bits of a draw
measurably more or less often than half the time: the last row shows the share farthest from ½, and z is
what exceeds the {bias:g} tolerated. No run meets it: words are mixed 64-bit numbers, and the chance that
two of them are one such flip apart is 2⁻⁵⁹.

| test | draws | comparisons | quantity | at the largest z | expected | z | p | pass |
|---|--:|--:|---|--:|--:|--:|--:|---|"""
LAGS: Final = (1, 2, 3, 4, 7, 8, 16, 31, 32, 64, 128, 256, 1024, 4096, 16384, 65536)
SHIFTS: Final = (-4, -3, -2, -1, 0, 1, 2, 3, 4)
PAIRS: Final = 100
NEIGHBOURS: Final[dict[str, list[Any]]] = {
    "seed": list(range(PAIRS + 1)),
    "round": list(range(PAIRS + 1)),
    "sensor": list(range(PAIRS + 1)),
    "part": list(range(PAIRS + 1)),
    "purpose": list(Purpose),
    "direction": list(Direction),
    "stream": list(range(16)),
}
_BIT_OF_BYTE: Final = np.arange(256)[:, None] >> np.arange(8) & 1

Z = npt.NDArray[np.float64]
U32 = npt.NDArray[np.uint32]
Draw = Callable[[Any, int, int], U32]
"""(key, n, offset) to n draws of the key."""


@dataclass(frozen=True)
class Result:
    """z of every comparison of a test, and the quantity where |z| is largest."""

    test: str
    quantity: str
    draws: int
    z: Z
    values: Z
    expected: float

    @property
    def worst(self) -> float:
        """The largest |z|."""
        return float(np.abs(self.z).max())

    @property
    def value(self) -> float:
        """The quantity where |z| is largest."""
        far = np.abs(self.values - self.expected)
        return float(self.values[np.lexsort((far, np.abs(self.z)))[-1]])

    @property
    def p(self) -> float:
        """P(largest |z| of that many independent normal numbers ≥ the one seen)."""
        single = math.erfc(self.worst / math.sqrt(2))
        return 1.0 if single >= 1 else -math.expm1(self.z.size * math.log1p(-single))

    @property
    def passed(self) -> bool:
        """Whether p exceeds LEVEL."""
        return self.p > LEVEL


def shares(test: str, draws: int, ones: Any, n: int, tolerance: float = 0.0) -> Result:
    """Result of counts of ones among n fair bits each: mean n/2, sd √n/2; z beyond a tolerated share."""
    share = np.ravel(ones) / n
    off = share - 0.5
    z = np.sign(off) * np.maximum(np.abs(off) - tolerance, 0) * 2 * math.sqrt(n)
    return Result(test, "share of ones", draws, z, share, 0.5)


def correlations(test: str, draws: int, sums: Any, n: int) -> Result:
    """Result of sums of n products of centred uniform numbers: variance 1/144 each, r = 12·sum/n."""
    r = 12 * np.ravel(sums).astype(float) / n
    return Result(test, "correlation", draws, r * math.sqrt(n), r, 0.0)


def chi_squares(test: str, draws: int, counts: npt.NDArray[np.int64]) -> Result:
    """Result of rows of counts of equally likely values; z by Wilson and Hilferty's cube root."""
    expected, df = counts.sum(1, keepdims=True) / counts.shape[1], counts.shape[1] - 1
    chi = ((counts - expected) ** 2 / expected).sum(1)
    spread = 2 / (9 * df)
    z = (np.cbrt(chi / df) - (1 - spread)) / math.sqrt(spread)
    return Result(test, f"χ², {df} degrees of freedom", draws, z, chi, df)


def byte_counts(x: U32) -> npt.NDArray[np.int64]:
    """int64[4, 256]: how often each byte of a draw, lowest first, takes each value."""
    rows = np.ascontiguousarray(x, "<u4").view(np.uint8).reshape(-1, 4)
    return np.stack([np.bincount(rows[:, i], minlength=256) for i in range(4)])


def bit_counts(x: U32) -> npt.NDArray[np.int64]:
    """int64[32]: how many of the draws have each bit set."""
    return (byte_counts(x) @ _BIT_OF_BYTE).reshape(32)


def centred(x: U32) -> npt.NDArray[np.float64]:
    """Draws as numbers in (−½, ½)."""
    return (x.astype(np.float64) + 0.5) * 2.0**-32 - 0.5


def chunks(n: int, size: int = CHUNK) -> Iterator[tuple[int, int]]:
    """(start, length) of pieces that cover range(n)."""
    return ((start, min(size, n - start)) for start in range(0, n, size))


# ---- the tests


def frequency(n: int, draw: Draw = rng.uint32) -> list[Result]:
    """Bits and bytes of one stream."""
    key = Key(2024, round=3, sensor=4, purpose=Purpose.GRADIENT)
    counts = sum((byte_counts(draw(key, m, start)) for start, m in chunks(n)), np.zeros((4, 256), np.int64))
    return [
        shares("each of 32 bits", n, counts @ _BIT_OF_BYTE, n),
        chi_squares("each of 4 bytes", n, counts),
    ]


def serial(n: int, draw: Draw = rng.uint32) -> list[Result]:
    """Draws of one stream against those `LAGS` later."""
    key = Key(2024, round=4, sensor=5, purpose=Purpose.DATA)
    sums, ones = np.zeros(len(LAGS)), np.zeros((len(LAGS), 32), np.int64)
    for start, m in chunks(n):
        x = draw(key, m + max(LAGS), start)
        u = centred(x)
        for i, lag in enumerate(LAGS):
            sums[i] += u[:m] @ u[lag : lag + m]
            ones[i] += bit_counts(x[:m] ^ x[lag : lag + m])
    lags = f"{len(LAGS)} lags up to {max(LAGS)}"
    return [
        correlations(f"one stream, {lags}: values", n, sums, n),
        shares(f"one stream, {lags}: XOR of bits", n, ones, n),
    ]


def neighbours(field: str) -> Iterator[tuple[Key, Key]]:
    """PAIRS pairs of keys that differ by one step of `field`; the sensor tells the others apart."""
    steps = list(pairwise(NEIGHBOURS[field]))
    for j in range(PAIRS):
        sensor, step = divmod(j, len(steps))
        yield tuple(Key(**{"seed": 2024, "sensor": sensor, field: v}) for v in steps[step])  # type: ignore[misc]


def cross(field: str, n: int, draw: Draw = rng.uint32) -> list[Result]:
    """Streams of neighbouring keys against each other, in step and shifted by `SHIFTS`."""
    each, reach = n // PAIRS, max(SHIFTS)
    sums, ones = np.zeros((PAIRS, len(SHIFTS))), np.zeros((len(SHIFTS), 32), np.int64)
    for j, (one, other) in enumerate(neighbours(field)):
        for start, m in chunks(each):
            x, y = draw(one, m, start + reach), draw(other, m + 2 * reach, start)
            u, v = centred(x), centred(y)
            for i, shift in enumerate(SHIFTS):
                at = reach + shift
                sums[j, i] += u @ v[at : at + m]
                ones[i] += bit_counts(x ^ y[at : at + m])
    name, used = f"neighbouring {field}s, {len(SHIFTS)} shifts", each * PAIRS
    return [
        correlations(f"{name}: values", used, sums.sum(0), used),
        correlations(f"{name}: values, {PAIRS} pairs apart", used, sums, each),
        shares(f"{name}: XOR of bits", used, ones, used),
    ]


@dataclass(frozen=True)
class Word:
    """All of a key that the generator looks at."""

    word: int


def avalanche(n: int, draw: Draw = rng.uint32) -> list[Result]:
    """Flips of one bit of the counter, or of the key's word, against each of 32 bits of the draw."""
    each = n // 16  # pairs of draws a flip
    results = []
    names = (("counter", 0, 0.0), ("lower", 0, 0.0), ("upper", 32, UPPER_BIAS))
    for part, (name, low, tolerance) in enumerate(names):
        ones = np.zeros((32, 32), np.int64)
        for bit in range(32):
            for block, (_, m) in enumerate(chunks(each, BLOCK)):
                key = Key(2024, round=block, sensor=bit, part=part, stream=15)
                at = int(rng.uint32(key, 1)[0]) // (2 * BLOCK) * 2 * BLOCK  # anywhere in the counter's range
                x = draw(key, 2 * BLOCK, at)
                if name != "counter":
                    y = draw(Word(key.word ^ 1 << low + bit), 2 * BLOCK, at)
                elif 1 << bit < 2 * BLOCK:
                    y = x.reshape(-1, 2, 1 << bit)[:, ::-1].reshape(-1)
                else:
                    y = draw(key, 2 * BLOCK, at ^ 1 << bit)
                # A flip may swap two counters of the block (the word's lower half and the counter meet in
                # an XOR), and then one of them alone may be counted.
                step = 1 << bit if 1 << bit < 2 * BLOCK else 1
                ones[bit] += bit_counts((x ^ y).reshape(-1, 2, step)[:, 0].reshape(-1)[:m])
        what = name if name == "counter" else f"key's {name} half"
        used = 2 * 32 * each
        results.append(shares(f"avalanche of the {what}, n = {each}", used, ones, each, tolerance))
    return results


def study(n: int) -> Iterator[Result]:
    """Every test, with about n draws each."""
    yield from frequency(n)
    yield from serial(n)
    for field in NEIGHBOURS:
        yield from cross(field, n)
    yield from avalanche(n)


def main() -> None:
    """Prints the study as Markdown; exits with 1 where a test fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels.rng_study")
    parser.add_argument("--draws", type=int, default=10**8, help="draws a test (default 100000000)")
    n = parser.parse_args().draws
    began, failed = time.monotonic(), 0
    facts: dict[str, Any] = {
        "today": datetime.date.today(),
        "numpy": np.__version__,
        "level": LEVEL,
        "bias": UPPER_BIAS,
    }
    print(HEAD.format(n=n, finite=math.sqrt(1 - min(n, 2**32) / 2**32), **facts))
    for r in study(n):
        failed += not r.passed
        found = (r.quantity, f"{r.value:.6g}", f"{r.expected:g}", f"{r.worst:.2f}", f"{r.p:.3g}")
        row = (r.test, r.draws, r.z.size, *found, "yes" if r.passed else "**no**")
        print("|", " | ".join(map(str, row)), "|", flush=True)
    print(f"\nFailed: {failed}. Took {time.monotonic() - began:.0f} s on one core.")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
