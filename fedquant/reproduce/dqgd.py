"""Figure 3 of "Differentially Quantized Gradient Descent", its extension to momentum, and what saves bits.

Lin, Kostina, Hassibi (arXiv 2002.02508). Writes pictures (SVG, PNG), points (CSV) and what holds (Markdown).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from fedquant.differential import rates
from fedquant.differential.problems import Quadratic, gaussian, matrix_market, of_matrix
from fedquant.differential.sweep import Point, sweep
from fedquant.keys import Key
from fedquant.reproduce import dqgd_bits, report
from fedquant.reproduce import dqgd_pictures as pictures
from fedquant.reproduce.report import Claim

SEED: Final = Key(2021)
KAPPA: Final = 10.0
SIZE: Final = 32
WIDE: Final = 104  # columns of ash331, the paper's matrix
GRADIENT: Final = ("gd", "nq-gd", "dq-gd")
MOMENTUM: Final = ("agd", "dq-agd", "hb", "dq-hb")
PAIRS: Final = (("gd", "dq-gd"), ("agd", "dq-agd"), ("hb", "dq-hb"))
RATES: Final = [float(r) for r in range(2, 11)]  # at which payloads are counted
DEEP: Final = 1e-140  # its square is still a float64


class Setting(NamedTuple):
    """A problem: its label, dimension and condition number, what was measured, and that for T → ∞."""

    label: str
    n: int
    kappa: float
    points: list[Point]
    limits: list[Point]

    def rate(self, method: str, bits: float = math.inf) -> float:
        """The mean measured rate of a method at R = bits."""
        return next(p.rate for p in self.points if p.method == method and p.bits == bits)

    def of(self, method: str) -> list[Point]:
        """A method's points."""
        return [p for p in self.points if p.method == method]


def run(
    out: Path, quick: bool = False, matrix: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Measures everything into the folder `out`; returns the Markdown file.

    quick: fewer instances and rates. matrix: a Matrix Market file with full column rank (paper: ash331);
    None leaves that half of the figure out. Raises DataError for a bad file, ConfigError without matplotlib.
    """
    count, per = (25, 1) if quick else (500, 4)  # per: rates a bit
    grid = [1 + i / per for i in range(9 * per + 1)]
    problems = {f"Gaussian, n = {SIZE}, κ = {KAPPA:g}": gaussian(SEED, SIZE, KAPPA, count)}
    if matrix is not None:
        loaded = of_matrix(SEED, matrix_market(matrix), count)
        label = f"{matrix.stem}, n = {loaded.x0.shape[-1]}, κ = {float(loaded.L[0] / loaded.mu[0]):.3g}"
        problems[label] = loaded
    settings = []
    for label, problem in problems.items():
        say(f"{label}: GD, AGD and heavy ball, {count} instances")
        points = list(sweep(label, problem, GRADIENT + MOMENTUM, grid))
        settings.append(
            Setting(*_shape(label, problem), points, _limits(label, problem.take(np.arange(count) < 25)))
        )
    fine = [2 + i / per for i in range(4 * per + 1)]
    balls = []
    for n in (SIZE, WIDE):
        label = f"Gaussian, n = {n}, κ = {KAPPA:g}"
        say(f"{label}: cube against ball")
        problem = gaussian(SEED, n, KAPPA, count // 5)
        both = [p for kind in ("cube", "ball") for p in sweep(label, problem, ["dq-gd"], fine, kind)]
        balls.append(Setting(label, n, KAPPA, both, []))
    sizes: list[dqgd_bits.Size] = []
    for label, problem in problems.items():
        say(f"{label}: payloads of uniform, entropy-coded and of ball")
        sample = problem.take(np.arange(count) < (2 if quick else 5))
        sizes += dqgd_bits.along(label, sample, RATES[:: 2 if quick else 1])
    spheres = list(dqgd_bits.on_spheres(dqgd_bits.SPHERES, KAPPA, 5 if quick else 50))
    say("pictures and tables")
    for name, methods in (("dqgd-fig3", GRADIENT), ("dqgd-momentum", MOMENTUM)):
        panels = [(s.label, s.n, s.kappa, [p for p in s.points if p.method in methods]) for s in settings]
        pictures.rates_against_bits(out / name, panels)
    pictures.cube_against_ball(out / "dqgd-ball", [s[:4] for s in balls])
    rows = [astuple(p) for s in (*settings, *balls) for p in s.points]
    report.write_csv(out / "dqgd-fig3.csv", [f.name for f in fields(Point)], rows)
    sent = [(label, [s for s in sizes if s.problem == label]) for label in problems]
    pictures.bits_sent(out / "dqgd-bits", sent)
    dqgd_bits.write(out / "dqgd-bits.csv", [*sizes, *spheres])
    command = "fedquant reproduce dqgd-fig3" + quick * " --quick"
    command += f" --matrix {matrix.name}" if matrix is not None else ""
    blocks = _text(settings, balls, count, command), dqgd_bits.markdown([*sizes, *spheres])
    return report.write(out / "dqgd-fig3.md", "Differentially quantized gradient descent: Figure 3", *blocks)


def _shape(label: str, problem: Quadratic) -> tuple[str, int, float]:
    return label, problem.x0.shape[-1], float(problem.L[0] / problem.mu[0])


def _limits(label: str, problem: Quadratic) -> list[Point]:
    """Rates over eleven times as many iterations, below and above each threshold.

    Around x* = 0 float64 has no floor, since all that is computed shrinks with r_t.
    """
    x0, zero = problem.x0 - problem.x_star, np.zeros_like(problem.x0)
    centred = replace(problem, linear=zero, x0=x0, x_star=zero)
    _, n, kappa = _shape(label, problem)
    points = list(sweep(label, centred, [exact for exact, _ in PAIRS], [], floor=DEEP))
    for _, name in PAIRS:
        threshold = rates.cube_bits(n, rates.lossless(name, kappa))
        near = [threshold + offset for offset in (-0.2, 0.2, 1.0)]
        points += sweep(label, centred, [name], near, floor=DEEP)
    return points


# ---- what the paper claims


def claims(setting: Setting) -> list[Claim]:
    """The paper's claims on the rates of one problem, as measured."""
    n, kappa = setting.n, setting.kappa
    quantized = [p for p in setting.points if p.quantizer]
    worst, reach = max(p.worst for p in quantized), max(p.reach for p in quantized)
    naive, differential = setting.of("nq-gd"), setting.of("dq-gd")
    slower = [p for p in differential if p.rate > setting.rate("nq-gd", p.bits)]
    above = max(p.rate - min(1, p.promised) for p in naive)
    below = max(setting.rate("gd") - p.rate for p in (*naive, *differential))
    out = [
        Claim("‖u_t‖ ≤ r_t: no quantizer overflows", f"largest ‖u_t‖ / r_t {reach:.3f}", reach <= 1),
        Claim("the error is within its bound, (19)–(21)", f"largest error / bound {worst:.3f}", worst <= 1),
        Claim(
            "DQ-GD is faster than NQ-GD",
            f"slower at {len(slower)} of {len(differential)} rates R",
            not slower,
        ),
        Claim("NQ-GD attains σ + √n2^−R, (25)", f"at most {above:+.4f} off it (0.01)", above <= 0.01),
        Claim(
            "unquantized GD bounds both from below", f"at most {-below:+.4f} off it (0.001)", below <= 1e-3
        ),
    ]
    for exact, name in PAIRS:
        out += _transition(setting, exact, name)
        start = rates.cube_bits(n, rates.linear(name, kappa))
        early = [p.bits for p in setting.of(name) if p.q > rates.linear(name, kappa) and p.converged > 0]
        text = f"{pictures.STYLES[name][1]} does not converge below R′ = {start:.2f}"
        out.append(Claim(text, f"converges at {len(early)} rates R below", not early))
    last = max(p.bits for p in quantized)
    ends = [setting.rate(name, last) for name in ("dq-hb", "dq-agd", "dq-gd")]
    shown = " < ".join(f"{rate:.3f}" for rate in ends)
    out.append(Claim(f"at R = {last:g}: DQ-HB < DQ-AGD < DQ-GD", shown, ends == sorted(ends)))
    return out


def _transition(setting: Setting, exact: str, name: str) -> list[Claim]:
    """Below the threshold the quantizer sets the rate, ψ(q); above it costs nothing. For T → ∞."""
    limit = next(p.rate for p in setting.limits if p.method == exact)
    below, *above = [p for p in setting.limits if p.method == name]
    threshold = rates.cube_bits(setting.n, rates.lossless(name, setting.kappa))
    label = pictures.STYLES[name][1]
    shown = ", ".join(f"{p.rate - limit:+.4f} at R = {p.bits:.2f}" for p in above)
    expected = min(1, below.promised)
    return [
        Claim(
            f"{label} loses nothing from R = {threshold:.2f} on (T → ∞)",
            f"{shown} (0.005)",
            all(p.rate - limit <= 0.005 for p in above),
        ),
        Claim(
            f"{label}'s rate at R = {below.bits:.2f} is {expected:.3f}, above {limit:.3f} (T → ∞)",
            f"{below.rate:.3f} (0.005)",
            abs(below.rate - expected) <= 0.005 and below.rate > limit + 0.005,
        ),
    ]


# ---- tables


def _text(settings: Sequence[Setting], balls: Sequence[Setting], count: int, command: str) -> list[str]:
    lines = [
        f"Least squares, {count} instances a point (seed {SEED.seed}; vectors of random direction: "
        f"{dqgd_bits.KEY.seed}); rate = (‖x̂_T − x*‖/‖x̂_0 − x*‖)^(1/T), clipped at 1,",
        "T the first iteration with r_T ≤ 1e-12·r_0. Theory's rates are of the worst case as T → ∞:",
        "instances may be faster, and a finite T slower. “T → ∞” marks rates down to r_T ≤ 1e-140·r_0,",
        "of the same problems moved to x* = 0. What counts as equal is said in brackets.",
        "Where the levels M are odd, 0 is a midpoint, and a range that grows stalls the iterate instead of",
        "driving it off: a rate just below 1 need not be convergence (see `converged` in the CSV).",
        f"The paper names neither n nor m of its Gaussian ensemble: here n = {SIZE}, m = 2n.",
        "",
        "![GD](dqgd-fig3.svg)",
        "![momentum](dqgd-momentum.svg)",
        "![cells of the ball](dqgd-ball.svg)",
        "",
        "Circles: means, with 5–95 % of instances. Lines: theory. Dotted verticals: thresholds R′ and R_A.",
        f"Command: `{command}`",
        "",
    ]
    if len(settings) == 1:
        lines += ["No matrix file was given: the paper's second panel (ash331) was not measured.", ""]
    for setting in settings:
        lines += [f"## {setting.label}", "", *report.verdicts(claims(setting))]
        names = [name for name in (*GRADIENT, *MOMENTUM) if setting.of(name)]
        lines += ["", "| R | " + " | ".join(pictures.STYLES[name][1] for name in names) + " |"]
        lines += ["| ---: " * (len(names) + 1) + "|"]
        for bits in (b for b in sorted({p.bits for p in setting.points}) if b.is_integer()):
            row = [
                setting.of(name)[0].rate if not setting.of(name)[0].quantizer else setting.rate(name, bits)
                for name in names
            ]
            lines.append(f"| {bits:g} | " + " | ".join(f"{rate:.3f}" for rate in row) + " |")
        lines.append("")
    lines += [
        "## Cells of the ball alone",
        "",
        "q: largest error over r. Saved: bits/coordinate the cube needs beyond R for the ball's q.",
    ]
    lines += [
        "",
        "| n | R | q, cube | q, ball | ρ, cube | ρ, ball | saved | DQ-GD, cube | DQ-GD, ball |",
        "| ---: " * 9 + "|",
    ]
    for setting in balls:
        for cube, ball in _pairs(setting):
            if ball.bits.is_integer():
                saved = rates.cube_bits(setting.n, ball.q) - ball.bits
                quality = f"{cube.q:.3f} | {ball.q:.3f} | {cube.rho:.2f} | {ball.rho:.2f}"
                speed = f"{saved:.2f} | {cube.rate:.3f} | {ball.rate:.3f}"
                lines.append(f"| {setting.n} | {ball.bits:g} | {quality} | {speed} |")
    return lines


def _pairs(setting: Setting) -> list[tuple[Point, Point]]:
    kinds = [[p for p in setting.points if p.quantizer == kind] for kind in ("cube", "ball")]
    return list(zip(*kinds, strict=True))
