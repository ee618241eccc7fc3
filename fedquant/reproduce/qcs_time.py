"""Figure 5 of the QCS paper: time to compute and compress the gradients of 100 batches."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from time import process_time
from typing import Final, NamedTuple

import numpy as np

from fedquant.codecs.base import Codec
from fedquant.codecs.qcs import QCS
from fedquant.codecs.qsgd import QSGD
from fedquant.keys import Purpose
from fedquant.plan import make_plan
from fedquant.reproduce import report
from fedquant.reproduce.qcs_schemes import PAPER, QCS_2, TERNARY, matching, qcs_1
from fedquant.reproduce.report import Claim
from fedquant.scenario import load
from fedquant.tasks import learn

SCENARIO: Final = "papers/qcs/mnist"
MODELS: Final = {"fc": "FC 1000-300-100", "lenet5": "LeNet-5"}
PARAMETERS: Final = {"fc": 1_116_410, "lenet5": 61_706}
BATCH: Final = 128  # the paper's, per worker
NEGLIGIBLE: Final = 0.05  # of the time that the gradients take
COLOURS: Final = {
    "baseline": "black",
    "QSGD": "tab:orange",
    "QSGD, buckets of 512": "tab:red",
    "Sparse-SGD, gain 32": "tab:olive",
    "Sparse-SGD, gain 100": "tab:green",
    "QCS, k = n, Q = 1": "tab:blue",
    "QCS, gain 32": "tab:cyan",
    "QCS, gain 100": "tab:purple",
    "QCS, gain 32, any order": "tab:pink",
}


class Size(NamedTuple):
    """How much is measured: batches, and their sizes."""

    batches: int
    sizes: tuple[int, ...]


FULL = Size(100, (16, 32, 64, 128, 256))
QUICK = Size(10, (32, 128))


class Time(NamedTuple):
    """CPU seconds of 100 batches: of the gradients alone, and of what the scheme adds."""

    model: str
    batch: int
    scheme: str
    gain: float
    compute: float
    compress: float

    @property
    def total(self) -> float:
        """Both."""
        return self.compute + self.compress


def run(out: Path, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Path:
    """Writes qcs-fig5.{svg,png,csv,md} into the folder `out`; returns the Markdown file.

    Raises ConfigError without matplotlib, DataError without MNIST.
    """
    figure, axes = report.panels(len(MODELS))  # before minutes of work
    size, found = QUICK if quick else FULL, []
    for model in MODELS:
        for batch in size.sizes:
            say(f"{MODELS[model]}, batches of {batch}")
            found += _measure(model, batch, size.batches)
    for panel, model in zip(axes, MODELS, strict=True):
        for scheme, colour in COLOURS.items():
            own = [t for t in found if t.model == model and t.scheme == scheme]
            panel.plot([t.batch for t in own], [t.total for t in own], ".-", color=colour, label=scheme)
        panel.set_xscale("log", base=2)
        panel.set_ylim(bottom=0)
        report.finish(panel, MODELS[model], "batch size", "CPU seconds for 100 batches")
    report.save(figure, out / "qcs-fig5")
    report.write_csv(out / "qcs-fig5.csv", Time._fields, found)
    return _markdown(out / "qcs-fig5.md", found, size)


def _measure(model: str, batch: int, count: int) -> list[Time]:
    """All schemes code the same gradients, one after another, so that what else runs here hits all alike."""
    changes = {"task.model": model, "task.sensors": 1, "training.batch_size": batch}
    scenario = load(SCENARIO, changes)
    plan = make_plan(scenario)
    network, spec = plan.initial_model(), plan.model_spec
    first = plan.samples(0, plan.batch(0, 1))
    x, _ = learn.gradient(network, plan.task, first)
    schemes: dict[str, Codec] = {
        "QSGD": QSGD(levels=1, scope="segment"),
        "QSGD, buckets of 512": TERNARY,
        **{f"Sparse-SGD, gain {g}": matching(x, 4 * spec.size // g, scenario.key) for g in (32, 100)},
        "QCS, k = n, Q = 1": QCS_2,
        **{f"QCS, gain {g}": qcs_1(g) for g in (32, 100)},
        "QCS, gain 32, any order": QCS(order="auto", gain=32),
    }
    key = scenario.key.fold(purpose=Purpose.GRADIENT)
    for codec in schemes.values():  # compiles, and plans
        codec.encode(x, spec, key)
    learn.use_threads(1)  # after the codecs: numba's threads, once started, change torch's
    seconds: dict[str, list[float]] = {name: [] for name in ("baseline", *schemes)}
    bytes_sent = dict.fromkeys(schemes, 0)
    for round in range(1, count + 1):
        data = plan.samples(0, plan.batch(0, round))
        start = process_time()
        x, _ = learn.gradient(network, plan.task, data)
        seconds["baseline"].append(process_time() - start)
        for name, codec in schemes.items():
            start = process_time()
            payload, _ = codec.encode(x, spec, key.fold(round=round))
            seconds[name].append(process_time() - start)
            bytes_sent[name] += len(payload)
    typical = {name: 100 * float(np.median(each)) for name, each in seconds.items()}
    times = [Time(model, batch, "baseline", 1.0, typical["baseline"], 0.0)]
    for name in schemes:
        gain = 4 * spec.size * count / bytes_sent[name]
        times.append(Time(model, batch, name, gain, typical["baseline"], typical[name]))
    return times


def claims(found: Sequence[Time]) -> list[Claim]:
    """What the paper says about Fig. 5, as measured: ratios of one run."""
    out = []
    for model, label in MODELS.items():
        own = {(t.scheme, t.batch): t for t in found if t.model == model}
        batches = sorted({b for _, b in own})
        for scheme in ("QCS, k = n, Q = 1", "QCS, gain 100"):
            ratios = [own[scheme, b].total / own["QSGD", b].total for b in batches]
            text = f"{label}: {scheme} takes only slightly longer than QSGD, gradients included"
            shown = f"×{min(ratios):.2f} to ×{max(ratios):.2f} over batch sizes (1.15)"
            out.append(Claim(text, shown, max(ratios) <= 1.15))
        pairs = [(own["QCS, gain 100", b], own["Sparse-SGD, gain 100", b]) for b in batches]
        shares = [qcs.compress / sparse.compress for qcs, sparse in pairs]
        totals = [qcs.total / sparse.total for qcs, sparse in pairs]
        text = f"{label}: QCS takes much less time than Sparse-SGD, both at gain 100"
        shown = (
            f"compression ×{min(shares):.2f} to ×{max(shares):.2f} (0.5), "
            f"gradients included ×{min(totals):.2f} to ×{max(totals):.2f}"
        )
        out.append(Claim(text, shown, max(shares) <= 0.5))
    return out + _overhead(found)


def _overhead(found: Sequence[Time]) -> list[Claim]:
    """Section 6: transforms cost less and less beside backpropagation. All that QCS adds is counted."""
    shares = {
        t.model: t.compress / t.compute for t in found if t.batch == BATCH and t.scheme == "QCS, k = n, Q = 1"
    }
    out = []
    for model, label in MODELS.items():
        shown = f"{100 * shares[model]:.1f} % of the gradients' time" if model in shares else "not measured"
        text = (
            f"{label}: QCS's overhead is negligible beside backpropagation, at the paper's batches of {BATCH}"
        )
        holds = shares[model] <= NEGLIGIBLE if model in shares else None
        out.append(Claim(text, f"{shown} (at most {100 * NEGLIGIBLE:g} %)", holds))
    rising = sorted(shares, key=lambda model: PARAMETERS[model])
    falls = all(shares[more] < shares[less] for less, more in pairwise(rising))
    out.append(
        Claim(
            "it becomes so “as the models become more complex and the number of parameters increases”",
            "; ".join(f"{PARAMETERS[m]:,} parameters {100 * shares[m]:.1f} %" for m in rising)
            or "not measured",
            falls and shares[rising[-1]] <= NEGLIGIBLE if len(rising) > 1 else None,
        )
    )
    return out


def _markdown(path: Path, found: Sequence[Time], size: Size) -> Path:
    settings = f"""
CPU seconds of one thread to compute the gradients of 100 batches of MNIST and to code each into a real
payload: 100 times the median of {size.batches} batches. Loading, sending and decoding are left out, as in
the paper. All schemes code the same gradients in turn, so their ratios are of one run.
{platform.machine()}, {platform.system()}; the paper used a Titan Xp. QSGD has a scale a layer, or one for
512 numbers; QCS has partitions of 256 (Sylvester), or of any order, the best of which need slower
transforms. Seed {load(SCENARIO).seed}.

Command: `fedquant reproduce qcs-fig5{" --quick" if size is QUICK else ""}`
"""
    rows = [
        (
            f"{MODELS[model]}, {scheme}",
            f"{np.mean([t.gain for t in own]):.1f}",
            *(f"{t.compress:.2f}" if scheme != "baseline" else f"{t.compute:.2f}" for t in own),
            *(f"{t.total / t.compute:.2f}" for t in own),
        )
        for model in MODELS
        for scheme in COLOURS
        for own in [[t for t in found if t.model == model and t.scheme == scheme]]
    ]
    head = ["", "gain", *(f"s, batch {b}" for b in size.sizes), *(f"× baseline, {b}" for b in size.sizes)]
    note = ["Seconds: of the baseline to compute, of the others what they add to it."]
    picture = ["![Figure 5](qcs-fig5.svg)"]
    title = "QCS, Figure 5: time to compute and compress"
    return report.write(
        path, title, PAPER, settings, report.verdicts(claims(found)), note, report.table(head, rows), picture
    )
