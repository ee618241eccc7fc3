"""The benchmark on little data: what it computes, never how long anything takes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedquant import kernels, registry
from fedquant.bench import configurations, distortion, peers, report, timing, vectors
from fedquant.bench.coding import entropy_of
from fedquant.bench.peers import Peer
from fedquant.bench.run import Effort, run
from fedquant.bench.targets import Verdict, judge
from fedquant.bench.tensor import SIZE, layer_shapes, layered_normal
from fedquant.bench.vectors import Vectors
from fedquant.codecs.base import Spec

PROTOTYPE = Path(__file__).parents[3] / "shared" / "prototypes" / "rd_tensor.py"


def normal(n: int, *scales: float) -> Vectors:
    rng = np.random.default_rng(1)
    parts = [rng.standard_normal(n, dtype=np.float32) * np.float32(s) for s in scales]
    return Vectors(
        "normal",
        Spec(n * len(scales), segments=tuple(n * (i + 1) for i in range(len(scales)))),
        (np.concatenate(parts),),
    )


# ---- the tensor


def test_the_tensor_is_that_of_its_description() -> None:
    assert sum(math.prod(shape) for shape in layer_shapes()) == SIZE
    x, spec = layered_normal(200_000)
    assert x.dtype == np.float32
    assert spec.segments[:6] == (1728, 1792, 1856, 38720, 38784, 38848)
    assert spec.segments[-1] == x.size == 200_000
    longer, _ = layered_normal(300_000)
    assert np.array_equal(longer[:200_000], x)
    assert x[:2].tolist() == pytest.approx([-0.00168080709, 0.00018659279], rel=1e-6)


@pytest.mark.skipif(not PROTOTYPE.is_file(), reason="the prototype lies beside the repository only")
def test_the_tensor_is_the_prototypes() -> None:
    found = importlib.util.spec_from_file_location("rd_tensor", PROTOTYPE)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    theirs, ends = module.rd_tensor()
    x, spec = layered_normal()
    assert np.array_equal(x, theirs)
    assert spec.segments == tuple(ends.tolist())


# ---- timing


class Clock:
    """A clock that only `passes` moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> Callable[[], None]:
        def wait() -> None:
            self.now += seconds

        return wait


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=made, thread_time=made))
    return made


@pytest.mark.parametrize(
    ("seconds", "runs"),
    [
        (0.25, 4),  # as many as fill the budget
        (0.75, 3),  # at least three
        (1.5, 3),  # the third begins before 4 budgets are over
        (10.0, 1),
    ],
)
def test_compare_runs_until_the_budget_is_spent(clock: Clock, seconds: float, runs: int) -> None:
    found = timing.compare(clock.passes(seconds), clock.passes(0), 1, 1.0)
    assert found == timing.Timing(1, seconds, 0.0, seconds, 0.0, runs)


def test_speed_is_relative_to_memcpy(clock: Clock) -> None:
    assert timing.compare(clock.passes(0.5), clock.passes(0.25), 1, 1.0).x == 0.5
    fast_once = iter([0.5, 1.0, 0.25, 1.0, 1.0])
    found = timing.compare(lambda: clock.passes(next(fast_once))(), clock.passes(0.25), 1, 3.0)
    assert (found.x, found.x_best) == (0.25, 1.0)
    assert found.each(10).x == 2.5
    assert timing.short(clock.passes(0.5), 1.0, batch=10) == 0.5


def test_threads_are_put_back() -> None:
    if not kernels.COMPILED:
        pytest.skip("numpy kernels have no threads")
    before = kernels.get_threads()
    with timing.threads(1):
        assert kernels.get_threads() == 1
    assert kernels.get_threads() == before


# ---- rate and distortion


def test_entropy_of_symbols() -> None:
    assert entropy_of(np.arange(8) - 3) == 3
    assert entropy_of(np.array([5, 5, 5])) == 0
    assert entropy_of(np.array([0, 0, 0, 1])) == pytest.approx(2 - 0.75 * math.log2(3))


def test_the_bound_of_a_normal_vector_is_that_of_high_rate_theory() -> None:
    """Of each half h(X) − log2 Δ with one step Δ = √(12·error) (Gish and Pierce 1968).

    The energy of 2**17 draws varies by √(2/2**17) = .4 %, which is .003 bit; .02 is six times that.
    """
    points = distortion.entropy_bound(normal(1 << 17, 1.0, 8.0))
    for nmse in (1e-4, 1e-3):
        step = math.sqrt(12 * nmse * (1 + 8**2) / 2)
        bits = [math.log2(scale * math.sqrt(2 * math.pi * math.e) / step) for scale in (1, 8)]
        found = distortion.bound_at(nmse, points)
        assert found == pytest.approx(sum(bits) / 2, abs=0.02)


def test_the_bound_is_a_falling_curve_with_ends() -> None:
    points = distortion.entropy_bound(normal(4096, 1.0))
    errors, bits = zip(*points, strict=True)
    assert (np.diff(errors) > 0).all()
    assert (np.diff(bits) < 0).all()
    assert distortion.bound_at(errors[0] / 2, points) is None
    assert distortion.bound_at(errors[-1] * 2, points) is None
    assert distortion.bound_at(errors[3], points) == pytest.approx(bits[3])


def test_comparison_counts_bytes_and_reports_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        distortion,
        "codecs",
        lambda points: [configurations.Choice(name, {"name": name}) for name in ("float32", "qsgd")],
    )

    def broken(x: Any, spec: Spec) -> tuple[int, Any]:
        raise TypeError("no such thing\nreally")

    others = [
        Peer("halves", "other", lambda x, spec: (2 * x.size, x), lambda sent: sent / np.float32(2)),
        Peer("broken", "other", broken, lambda sent: sent),
        Peer("large", "other", broken, lambda sent: sent, limit=10),
    ]
    found = distortion.compare_schemes(normal(1000, 1.0), others, lambda said: None)
    rows = {row.name: row for row in found.rows}
    assert rows["float32"].bits == 8 * 4005 / 1000
    assert rows["float32"].nmse == 0
    assert rows["float32"].over_bound is None
    assert rows["halves"].bits == 16
    assert rows["halves"].nmse == pytest.approx(0.25)
    assert rows["halves"].over_bound == pytest.approx(16 - distortion.bound_at(0.25, found.bound))
    assert found.failed == {"broken": "TypeError: no such thing", "large": "takes minutes for 1,000 numbers"}


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ImportError(f"no {name} here")

    monkeypatch.setattr(peers.importlib, "import_module", refuse)
    found, missing = peers.peers()
    assert found == []
    assert set(missing) == {"bitsandbytes", "hivemind", "OpenFL"}
    assert "here" in missing["bitsandbytes"]


def test_bytes_of_bitsandbytes_include_scales_and_tables() -> None:
    pytest.importorskip("bitsandbytes")
    found = {peer.name: peer for peer in peers.peers()[0]}
    x = np.random.default_rng(1).standard_normal(6400, dtype=np.float32)
    for name, size in (
        ("bitsandbytes nf4, 64", 3200 + 4 * 100 + 4 * 16),
        ("bitsandbytes blockwise 8 bit, 4096", 6400 + 4 * 2 + 4 * 256),
    ):
        with peers.foreign():
            sent, payload = found[name].encode(x, Spec(x.size))
            back = found[name].decode(payload)
        assert sent == size
        assert np.sum((back - x) ** 2) < 0.02 * np.sum(x**2)


def test_gradients_of_the_watch_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        vectors,
        "_GRADIENTS",
        {
            "watch": vectors._GRADIENTS["gradients, CNN on watches"],
            "none": ("mnist", {"task.root": "/nowhere", "task.download": False}),
        },
    )
    found, missing = vectors.gradients(5)
    assert [each.name for each in found] == ["watch"]
    assert len(found[0].each) == 1
    assert found[0].each[0].shape == (found[0].spec.size,)
    assert np.abs(found[0].each[0]).max() > 0
    assert "root /nowhere is no folder" in missing["none"]


# ---- what is measured, and whether it suffices


def test_every_codec_is_measured_once_a_configuration() -> None:
    found = list(configurations.codecs(points=True))
    assert {str(choice.config["name"]) for choice in found} == set(registry.names("codec"))
    assert len({choice.label for choice in found}) == len(found)
    for choice in found:
        registry.create("codec", choice.config)


def test_labels() -> None:
    config = {"name": "error_feedback", "inner": {"name": "qsgd", "bits": 4, "entropy": True}, "beta": 0.5}
    assert configurations.label(config) == "error_feedback inner=(qsgd bits=4 entropy) beta=0.5"


def test_verdicts() -> None:
    assert Verdict("speed", "x", 0.5, 0.6).holds
    assert Verdict("speed", "x", 0.5, 0.6).distance == pytest.approx(0.2)
    assert not Verdict("speed", "x", 0.5, 0.4).holds
    assert Verdict("rate", "bit", 4.0, 3.0, at_most=True).holds
    assert Verdict("rate", "bit", 4.0, 5.0, at_most=True).distance == -0.25
    assert not Verdict("rate", "bit", 4.0, None, at_most=True).holds
    text = report.verdicts([Verdict("a", "x", 0.5, 0.4), Verdict("b", "s", 1.0, None, True)])
    assert "| a | ≥ 0.5 | 0.4 | – | x | -20% | **no** |" in text
    assert "| b | ≤ 1 | – | – | s | – | not measured |" in text


def test_a_whole_run_writes_its_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    said: list[str] = []
    results = run(tmp_path / "out", progress=said.append, effort=Effort(20_000, 20, 0, 0.0))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "results.json",
        "results.md",
        "rate.svg",
        "rate.png",
    }
    assert any("quantize_bits" in line for line in said)
    labels = {choice.label for choice in configurations.codecs()}
    assert {row.name for row in results.codecs} | results.missing.keys() >= labels
    assert {row.name for row in results.comparisons[0].rows} | results.comparisons[0].failed.keys() >= labels

    read = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert read["numbers"] == 20_000
    assert [t["what"] for t in read["targets"]] == [v.what for v in judge(results)]
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "nan" not in text
    for row in (*results.kernels, *results.codecs, *results.comparisons[0].rows):
        assert f"| {row.name} |" in text

    if kernels.COMPILED and len(timing.thread_counts()) > 1:
        absent = {v.what.split()[0] for v in judge(results) if v.measured is None}
        assert absent <= {"ecq"} - set(registry.names("codec"))
