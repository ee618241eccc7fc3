"""Figure 3 of the QCS paper: variance bounds against compression gain, and what is really lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.qcs import QCS
from fedquant.codecs.qcs_design import gamma, plan, useful
from fedquant.codecs.qsgd import QSGD
from fedquant.differential.normal import normal
from fedquant.keys import Key
from fedquant.reproduce import report
from fedquant.reproduce.qcs_gradients import moments
from fedquant.reproduce.qcs_schemes import PAPER, matching, nmse, through
from fedquant.reproduce.report import Claim
from fedquant.scenario import load
from fedquant.wire import HEADER_SIZE

F32 = npt.NDArray[np.float32]

SCENARIO: Final = "papers/qcs/mnist"
SEED: Final = Key(2020)
N: Final = 512  # of the bounds: the largest partition
SIZE: Final = 61_706  # LeNet-5's
FAR_GAINS: Final = (10, 20, 50, 100, 1000)  # at which it is set against sparsification
COLOURS: Final = {
    "QCS": "tab:blue",
    "MMSE-QCS": "tab:cyan",
    "Sparse-SGD": "tab:green",
    "QSGD": "tab:orange",
    "QSGD, entropy-coded": "tab:red",
}


class Size(NamedTuple):
    """How much is measured: gains, vectors of each kind, payloads of each, rounds of real gradients."""

    gains: tuple[float, ...]
    vectors: int
    repeats: int
    rounds: tuple[int, ...]


FULL = Size((4, 6, 8, 12, 16, 20, 32, 50, 100, 200, 400), 8, 4, (1, 20, 100, 400))
QUICK = Size((4, 12, 20, 32, 100, 400), 2, 1, (20,))


class Loss(NamedTuple):
    """What a scheme lost: real gain, mean and deviation of ‖x̂ − x‖²/‖x‖², and its bound (∞: none)."""

    source: str
    scheme: str
    asked: float
    gain: float
    nmse: float
    deviation: float
    bound: float


# ---- bounds, scales and headers left out as in the paper


def qcs_bound(gain: float, n: int = N) -> float:
    """The least γ of eq. (10) among all k and Q with a gain (11) of at least that; infinity for none."""
    best = math.inf
    for levels in range(2, 257):
        k = min(n, math.floor(32 * n / (gain * math.log2(levels))))
        if k >= 2:
            best = min(best, gamma(n, k, levels))
    return best


def qsgd_bound(levels: int, n: int = N) -> tuple[float, float]:
    """(gain, γ) of Lemma 3.1 in Alistarh et al. with s = `levels`, at log2(2s+1) bit/coordinate."""
    return 32 / math.log2(2 * levels + 1), min(n / levels**2, math.sqrt(n) / levels)


def sparse_bound(gain: float, n: int = N, bits: int = 32) -> float:
    """γ = n/k − 1 of keeping k of n at `bits` and an index each: the worst case (Wangni et al.)."""
    return gain * (bits + math.log2(n)) / 32 - 1


def largest_gain() -> float:
    """Of QCS in real bytes, where no partition is zero: a scale and a sign for each."""
    return max(4 * SIZE / (plan(SIZE, n, 1, 2).bytes + HEADER_SIZE) for n in useful(SIZE))


# ---- measurements


def vectors(size: Size) -> Iterator[tuple[str, list[F32]]]:
    """Kinds of vectors: Gaussian, heavy-tailed (Student's t, three degrees of freedom), real gradients."""
    drawn = [normal(SEED.fold(sensor=i), (4, SIZE)) for i in range(size.vectors)]
    yield "Gaussian", [z[0].astype(np.float32) for z in drawn]
    heavy = [z[0] / np.sqrt(np.mean(np.square(z[1:]), axis=0)) for z in drawn]
    yield "heavy-tailed", [x.astype(np.float32) for x in heavy]
    along = moments(load(SCENARIO), size.rounds)
    yield "gradients of LeNet-5", [g for moment in along for g in moment.gradients]


def measure(source: str, xs: Sequence[F32], size: Size) -> Iterator[Loss]:
    """Every scheme at every gain; Sparse-SGD in as many bytes as QCS."""
    spec = Spec(xs[0].size)
    for gain in size.gains:
        for scheme, estimator in (("QCS", "unbiased"), ("MMSE-QCS", "mmse")):
            codec = QCS(order="auto", gain=gain, estimator=estimator)  # type: ignore[arg-type]
            limit = codec.gamma(spec)
            bound = limit if scheme == "QCS" else limit / (limit + 1)
            yield _loss(source, scheme, gain, {codec: xs}, spec, size, bound)
        budget = codec.plan(spec).bytes + HEADER_SIZE
        own: dict[Codec, list[F32]] = {matching(x, budget, SEED, draws=1): [x] for x in xs}
        yield _loss(source, "Sparse-SGD", gain, own, spec, size, math.inf)
    for s in (1, 3, 7, 15, 127):
        plain = QSGD(levels=s, scope=512)
        bound = plain.variance_bound(spec) or math.inf
        yield _loss(source, "QSGD", math.nan, {plain: xs}, spec, size, bound)
    root = math.sqrt(spec.size)
    for share in (0.1, 0.25, 0.5, 1, 2, 4):
        coded = QSGD(levels=max(1, round(share * root)), norm="l2", entropy=True)
        bound = coded.variance_bound(spec) or math.inf
        yield _loss(source, "QSGD, entropy-coded", math.nan, {coded: xs}, spec, size, bound)


def _loss(
    source: str,
    scheme: str,
    asked: float,
    codecs: Mapping[Codec, Sequence[F32]],
    spec: Spec,
    size: Size,
    bound: float,
) -> Loss:
    errors, sizes = [], []
    for codec, xs in codecs.items():
        for i, x in enumerate(xs):
            for repeat in range(size.repeats):
                decoded, length, _ = through(codec, x, spec, SEED.fold(sensor=i, round=repeat))
                errors.append(nmse(decoded, x))
                sizes.append(length)
    gain = 4 * spec.size / float(np.mean(sizes))
    return Loss(source, scheme, asked, gain, float(np.mean(errors)), float(np.std(errors)), bound)


def run(out: Path, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Path:
    """Writes qcs-fig3.{svg,png,csv,md} into the folder `out`; returns the Markdown file.

    Raises ConfigError without matplotlib, DataError without MNIST.
    """
    size, found = QUICK if quick else FULL, []
    for source, xs in vectors(size):
        say(f"{source}: {len(xs)} vectors")
        found += list(measure(source, xs, size))
    sources = _sources(found)
    figure, axes = report.panels(1 + len(sources))
    _bounds(axes[0])
    for panel, (source, own) in zip(axes[1:], sources, strict=True):
        _losses(panel, source, own)
    report.save(figure, out / "qcs-fig3")
    report.write_csv(out / "qcs-fig3.csv", Loss._fields, found)
    return _markdown(out / "qcs-fig3.md", found, size)


def _bounds(axes: Any) -> None:
    gains = np.geomspace(2, 1000, 200)
    axes.loglog(gains, [qcs_bound(g) for g in gains], color=COLOURS["QCS"], label="QCS, eq. (10)")
    sparse = [sparse_bound(g) for g in gains]
    axes.loglog(gains, sparse, color=COLOURS["Sparse-SGD"], label="unbiased sparsification")
    points = [qsgd_bound(s) for s in range(1, 200)]
    axes.loglog(*zip(*points, strict=True), ".-", color=COLOURS["QSGD"], label="QSG, Lemma 3.1")
    report.finish(axes, f"bounds, n = {N}", "compression gain", "variance bound γ")


def _losses(axes: Any, source: str, found: Sequence[Loss]) -> None:
    for scheme, colour in COLOURS.items():
        own = _of(found, scheme)
        gains = [loss.gain for loss in own]
        axes.loglog(gains, [loss.nmse for loss in own], ".-", color=colour, label=scheme)
        if scheme == "QCS":
            axes.loglog(gains, [loss.bound for loss in own], "--", color=colour, label="QCS, bound γ")
    report.finish(axes, source, "compression gain (real bytes)", "‖x̂ − x‖² / ‖x‖²")


def claims(found: Sequence[Loss]) -> list[Claim]:
    """What the paper says about Fig. 3 and Theorem 2, as measured."""
    gains = [qsgd_bound(s)[0] for s in (1, 3, 7)]
    against = min(qsgd_bound(s)[1] / qcs_bound(g) for s, g in zip((1, 3, 7), gains, strict=True))
    worst = {
        scheme: max(loss.nmse / loss.bound for loss in _of(found, scheme)) for scheme in ("QCS", "MMSE-QCS")
    }
    most = {
        scheme: max(loss.gain for loss in _of(found, scheme))
        for scheme in ("QCS", "QSGD", "QSGD, entropy-coded")
    }
    out = [
        Claim("γ is orders of magnitude below QSG's", f"at least ×{against:.0f} below (×10)", against >= 10),
        *_against_sparsification(),
        Claim(
            "“arbitrarily large compression gains”: QCS goes beyond 32",
            f"{most['QCS']:.0f} in real bytes; with a scale and a sign for each partition of at most "
            f"512, {largest_gain():.0f} is the end",
            most["QCS"] > 32,
        ),
        Claim(
            "QSG's gain is at most 32, at log₂(2s+1) bits a number",
            f"{max(gains):.1f} without scales, {most['QSGD']:.1f} in real bytes",
            max(*gains, most["QSGD"]) <= 32,
        ),
        Claim(
            "QSG's gain is at most 32, entropy-coded (the paper does not say how it codes)",
            f"{most['QSGD, entropy-coded']:.1f} in real bytes",
            most["QSGD, entropy-coded"] <= 32,
        ),
        Claim(
            "unbiased: error within γ‖x‖² (Theorem 2)",
            f"largest mean error / bound {worst['QCS']:.2f}",
            worst["QCS"] <= 1,
        ),
        Claim(
            "MMSE: error within γ/(γ+1)·‖x‖² (Lemma 3)",
            f"largest mean error / bound {worst['MMSE-QCS']:.3f} (1.01: the bound is tight at large gains)",
            worst["MMSE-QCS"] <= 1.01,
        ),
    ]
    return out + [_against_qsgd(source, own) for source, own in _sources(found)]


def _against_sparsification() -> list[Claim]:
    """As often as there are ways to count what a kept number costs."""
    costs = {
        f"32 + log₂ n = {32 + math.log2(N):.0f} bits a kept number": 32,
        f"sign and index, {1 + math.log2(N):.0f} bits a kept number, one magnitude for all": 1,
    }
    ratios = [min(sparse_bound(g, bits=b) / qcs_bound(g) for g in FAR_GAINS) for b in costs.values()]
    turns = len({ratio >= 10 for ratio in ratios}) > 1
    return [
        Claim(
            f"γ is orders of magnitude below that of unbiased sparsification, at {cost}",
            f"at least ×{ratio:.1f} below (×10)" + ("; the verdict turns on this count" if turns else ""),
            ratio >= 10,
        )
        for cost, ratio in zip(costs, ratios, strict=True)
    ]


def _sources(found: Sequence[Loss]) -> list[tuple[str, list[Loss]]]:
    sources = dict.fromkeys(loss.source for loss in found)
    return [(source, [loss for loss in found if loss.source == source]) for source in sources]


def _pairs(own: Sequence[Loss], scheme: str) -> list[tuple[float, Loss]]:
    """(QCS's error in the same bytes, by interpolation between its gains; the scheme's loss) at each gain."""
    qcs = _of(own, "QCS")
    other = [loss for loss in _of(own, scheme) if loss.gain >= qcs[0].gain]
    x, y = np.log([q.gain for q in qcs]), np.log([q.nmse for q in qcs])
    at = np.exp(np.interp(np.log([q.gain for q in other]), x, y))
    return list(zip(at.tolist(), other, strict=True))


def _against_qsgd(source: str, own: Sequence[Loss]) -> Claim:
    pairs = _pairs(own, "QSGD")
    shown = ", ".join(f"{mine:.2g} against {q.nmse:.2g} (gain {q.gain:.1f})" for mine, q in pairs)
    return Claim(f"{source}: QCS loses less than QSGD", shown, all(mine < q.nmse for mine, q in pairs))


def _beyond(found: Sequence[Loss]) -> list[str]:
    """What the paper did not compare: no verdicts."""
    lines = [
        "Beyond the paper, without verdicts: the error of QCS against, in the same bytes, that of QSGD with "
        "more levels of the ℓ₂ norm, coded in their entropy, and of Sparse-SGD (the paper has its bound)."
    ]
    for scheme in ("QSGD, entropy-coded", "Sparse-SGD"):
        for source, own in _sources(found):
            pairs = _pairs(own, scheme)
            shown = ", ".join(f"{mine:.2g} against {q.nmse:.2g} (gain {q.gain:.0f})" for mine, q in pairs)
            lines.append(f"- {source}: QCS against {scheme}: {shown}.")
    return lines


def _of(own: Sequence[Loss], scheme: str) -> list[Loss]:
    return [loss for loss in own if loss.scheme == scheme]


def _markdown(path: Path, found: Sequence[Loss], size: Size) -> Path:
    settings = f"""
Bounds: n = {N}, scales and headers left out as in the paper; QSG with 2s + 1 levels at log₂(2s+1) bit;
unbiased sparsification keeps k of n numbers, γ = n/k − 1 (the paper does not say which n, nor what it
counts for a kept number; in the picture 32 + log₂ n bits).
Measured: real payloads of {SIZE:,} numbers, header and scales counted;
{size.vectors} vectors of each kind × {size.repeats} payloads (seed {SEED.seed}); heavy-tailed is Student's
t with three degrees of freedom; real gradients are those of four workers at rounds
{", ".join(map(str, size.rounds))} of `{SCENARIO}`. QCS picks its partitions' order, k and Q; QSGD has
buckets of 512 scaled by their largest magnitude, or (entropy-coded) the ℓ₂ norm of the whole vector;
Sparse-SGD takes the bytes of QCS.

Command: `fedquant reproduce qcs-fig3{" --quick" if size is QUICK else ""}`
"""
    blocks = [report.verdicts(claims(found)), _beyond(found)]
    for source, own in _sources(found):
        rows = [
            (
                loss.scheme,
                f"{loss.gain:.1f}",
                f"{loss.nmse:.3g} ± {loss.deviation:.1g}",
                f"{loss.bound:.3g}" if math.isfinite(loss.bound) else "",
            )
            for loss in own
        ]
        blocks += [[f"## {source}"], report.table(["scheme", "gain", "‖x̂ − x‖²/‖x‖²", "bound"], rows)]
    title = "QCS, Figure 3: variance against compression gain"
    return report.write(path, title, PAPER, settings, *blocks, ["![Figure 3](qcs-fig3.svg)"])
