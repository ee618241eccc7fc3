"""The bits that DQ-GD's payloads take: `uniform`, the same entropy-coded, and `ball`, each really encoded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Final, final

import numpy as np

from fedquant.codecs import ball
from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.uniform import Uniform
from fedquant.differential import rates
from fedquant.differential.arrays import F64
from fedquant.differential.normal import normal
from fedquant.differential.problems import Quadratic
from fedquant.differential.quantizers import Ball, Cube, Quantizer
from fedquant.differential.server import range_knob
from fedquant.differential.simulate import simulate
from fedquant.keys import Key
from fedquant.reproduce import report
from fedquant.wire import HEADER_SIZE

PLAIN: Final = "uniform"
CODED: Final = "uniform, entropy"
BALL: Final = "ball"
CODECS: Final[dict[str, Callable[[float], Codec]]] = {
    PLAIN: lambda bits: Uniform(bits=bits),
    CODED: lambda bits: Uniform(bits=bits, entropy=True),
    BALL: lambda bits: ball.Ball(bits=bits),
}
SPHERES: Final = (8, 16, 32, 64, 128, 1_000, 10_000)
"""Dimensions of vectors of random direction."""

KEY: Final = Key(2022)


@final
@dataclass(frozen=True)
class Size:
    """Payloads of one codec at R = `bits`, their means over a sample.

    reach: ‖u‖₂/r of what was coded; body, payload: bit/coordinate without and with the header; longest: of
    the longest body; converged: the share of DQ-GD's runs that reached the floor (of no run: nan); ball: R of
    the ball whose q it has, else nan.
    """

    problem: str
    n: int
    codec: str
    bits: float
    q: float
    reach: float
    payloads: int
    body: float
    longest: float
    payload: float
    converged: float
    ball: float


class Metered:
    """A quantizer that also encodes whatever it is given, and notes how many bytes that takes."""

    def __init__(self, tool: Quantizer, n: int, bits: float, names: Sequence[str]) -> None:
        self._tool, self._spec = tool, Spec(n, "float64")
        self._bits, self._codecs = bits, {name: CODECS[name](bits) for name in names}
        self.bytes: dict[str, list[int]] = {name: [] for name in names}
        self.reach: list[float] = []

    @property
    def q(self) -> float:
        """The quantizer's."""
        return self._tool.q

    @property
    def rho(self) -> float:
        """The quantizer's."""
        return self._tool.rho

    def __call__(self, u: F64, r: F64) -> F64:
        """p: float64[…, n]: the quantizer's. Raises as it does."""
        p = self._tool(u, r)
        for row, side in zip(u, r, strict=True):
            self.reach.append(float(np.linalg.norm(row) / side))
            knobs = range_knob(float(side))
            for name, codec in self._codecs.items():
                self.bytes[name].append(len(codec.encode(row, self._spec, KEY, knobs=knobs)[0]))
        return p

    def sizes(self, problem: str, converged: float, equal: float) -> Iterator[Size]:
        """What was noted, a size a codec."""
        n, reach = self._spec.size, float(np.mean(self.reach))
        for name, sent in self.bytes.items():
            mean, most = float(np.mean(sent)), max(sent)
            body, longest, payload = (8 * b / n for b in (mean - HEADER_SIZE, most - HEADER_SIZE, mean))
            measured = (reach, len(sent), body, longest, payload, converged)
            yield Size(problem, n, name, self._bits, self.q, *measured, equal)


def along(label: str, problem: Quadratic, bits: Sequence[float]) -> Iterator[Size]:
    """The payloads of DQ-GD's runs: the cube at R and at the q of the ball at R, and the ball at R.

    The cube's trajectory is the same however its codes are written.
    """
    n = problem.x0.shape[-1]
    for r in bits:
        tools: list[tuple[Quantizer, float, list[str], float]] = [(Cube(n, r), r, [PLAIN, CODED], math.nan)]
        if n * r <= ball.MAX_BITS:
            kept = Ball(n, r)
            equal = rates.cube_bits(n, kept.q)
            tools += [(kept, r, [BALL], r), (Cube(n, equal), equal, [PLAIN, CODED], r)]
        for tool, rate, names, of in tools:
            metered = Metered(tool, n, rate, names)
            outcome = simulate("dq-gd", problem, metered)
            yield from metered.sizes(label, float(outcome.converged.mean()), of)


def on_spheres(sizes: Sequence[int], kappa: float, count: int) -> Iterator[Size]:
    """Vectors of random direction, ‖u‖₂ = r and r/2, at the first whole R at which DQ-GD loses nothing."""
    for n in sizes:
        bits = float(math.ceil(rates.cube_bits(n, rates.lossless("dq-gd", kappa))))
        x = normal(KEY.fold(stream=1), (count, n))
        for reach in (1.0, 0.5):
            metered = Metered(Cube(n, bits), n, bits, [PLAIN, CODED])
            # just below: rounded, the norm must not pass r
            metered(x * (reach * (1 - 1e-12) / np.linalg.norm(x, axis=1, keepdims=True)), np.ones(count))
            yield from metered.sizes(f"‖u‖ = {reach:g}·r", math.nan, math.nan)


def write(path: Path, sizes: Sequence[Size]) -> None:
    """One row a size."""
    report.write_csv(path, [f.name for f in fields(Size)], map(astuple, sizes))


# ---- in words

_HEAD: Final = """## Entropy coding: bits measured

Bits a coordinate of DQ-GD's payloads, every byte counted; in brackets without the header of {header} bytes.
Means over all iterations of a few instances, {payloads} payloads or more; both sides know r_t.
`entropy: true` changes no number, only its length: at equal R all iterates are the same. The right half
gives `uniform` the levels that bring its q, and with it all r_t, to those of the ball at R.

![bits](dqgd-bits.svg)
"""
_HOW: Final = """How: the norm of u_t is at most r_t, so of n coordinates few come near ±r_t. Most are of
about ‖u_t‖/√n and share the few levels in the middle, which get short codes. The ball saves by numbering only
the cells it meets, in payloads of one length, of up to 800 bits; entropy coding takes any n, and gains once
more where ‖u_t‖ is well below r_t, but a payload may take as much as without. Against it stands what each
payload brings along: a table of frequencies and 4 bytes of the coder's state.

Where that pays: vectors of random direction with ‖u‖ = r, the most there is, and with half of it, at the
first whole R at which DQ-GD loses nothing (κ = 10).
"""


def markdown(sizes: Sequence[Size]) -> list[str]:
    """Lines of the report, of the sizes of `along` and `on_spheres`."""
    runs = [s for s in sizes if not math.isnan(s.converged)]
    least = min((s.payloads for s in runs if s.converged == 1), default=0)
    lines = [_HEAD.format(header=HEADER_SIZE, payloads=least)]
    for label in dict.fromkeys(s.problem for s in runs):
        lines += _table(label, [s for s in runs if s.problem == label])
    return [*lines, _HOW, *_spheres([s for s in sizes if math.isnan(s.converged)])]


def _table(label: str, sizes: Sequence[Size]) -> list[str]:
    at = {(s.codec, s.bits): s for s in sizes if s.codec != BALL and math.isnan(s.ball)}
    same = {(s.codec, s.ball): s for s in sizes}
    rows = sorted({bits for _, bits in at})
    lines = [
        f"**{label}** (the header: {8 * HEADER_SIZE / sizes[0].n:.2f} bit)",
        "",
        "| R | uniform | entropy-coded | ‖u‖/r | ball | R′ of its q | uniform, R′ | entropy-coded, R′ |",
        "| ---: " * 8 + "|",
    ]
    for bits in rows:
        plain, coded = at[PLAIN, bits], at[CODED, bits]
        left = [_shown(plain), _shown(coded), f"{plain.reach:.2f}"]
        if plain.converged < 1:
            left = ["diverges", "", ""]
        right = ["too long", "", "", ""]
        if (BALL, bits) in same:
            of, plain, coded = (same[name, bits] for name in (BALL, PLAIN, CODED))
            right = [_shown(of), f"{plain.bits:.2f}", _shown(plain), _shown(coded)]
        lines.append(f"| {bits:g} | " + " | ".join((*left, *right)) + " |")
    saved = {b: at[PLAIN, b].body - at[CODED, b].body for b in rows if at[PLAIN, b].converged == 1}
    held = [b for b in rows if (BALL, b) in same and same[CODED, b].body >= same[BALL, b].body]
    fell = [b for b in saved if b - 1 in saved and at[CODED, b].body < at[CODED, b - 1].body]
    told = f"no more bits at R = {_list(held)}, and more at the others" if held else "more"
    shorter = sum(v > 0 for v in saved.values())
    lines += [
        "",
        f"Entropy coding shortens `uniform` at {shorter} of the {len(saved)} rates R at which it converges:",
        f"{_ends(saved)}.",
        f"At equal q the ball takes {told}.",
    ]
    for b in fell:
        wide = 2 ** (b - 1) <= 256 < 2**b
        why = "beyond 256 levels, those of similar size share a frequency" if wide else "‖u‖/r falls"
        lines.append(f"R = {b:g} takes fewer bits than R = {b - 1:g}: {why}.")
    return [*lines, ""]


def _spheres(sizes: Sequence[Size]) -> list[str]:
    lines = ["| n | R | uniform | entropy-coded, ‖u‖ = r | ‖u‖ = r/2 |", "| ---: " * 5 + "|"]
    longer: dict[float, list[int]] = {1.0: [], 0.5: []}
    for n in dict.fromkeys(s.n for s in sizes):
        plain, *_ = own = [s for s in sizes if s.n == n]
        coded = [s for s in own if s.codec == CODED]
        lines.append(f"| {n:,} | {plain.bits:g} | " + " | ".join(_shown(s) for s in (plain, *coded)) + " |")
        for size in coded:
            if size.body >= plain.body:
                longer[round(size.reach, 1)].append(n)
    return [
        *lines,
        "",
        f"It costs bits at n = {_list(longer[1.0]) or '–'} with ‖u‖ = r,",
        f"at n = {_list(longer[0.5]) or '–'} with half of it, and saves bits at all others.",
    ]


def _shown(size: Size) -> str:
    return f"{size.payload:.2f} ({size.body:.2f})"


def _list(bits: Sequence[float]) -> str:
    return ", ".join(f"{b:g}" for b in bits)


def _ends(saved: dict[float, float]) -> str:
    if not saved:
        return "none"
    least, most = min(saved, key=lambda b: saved[b]), max(saved, key=lambda b: saved[b])
    return f"by {saved[least]:.2f} (R = {least:g}) to {saved[most]:.2f} bit/coordinate (R = {most:g})"
