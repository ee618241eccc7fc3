from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from fedquant.codecs.base import Spec
from fedquant.differential.normal import normal
from fedquant.differential.problems import gaussian
from fedquant.differential.quantizers import Cube
from fedquant.differential.server import range_knob
from fedquant.differential.simulate import simulate
from fedquant.differential.sweep import Point, sweep
from fedquant.errors import DataError
from fedquant.keys import Key
from fedquant.reproduce import dqgd, dqgd_bits

pytest.importorskip("matplotlib", reason="needs the extra `report`")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quick reproduction with a small matrix, for every test to look at."""
    pytest.importorskip("scipy", reason="Matrix Market files need scipy")
    out = tmp_path_factory.mktemp("dqgd")
    values = normal(Key(8), (40, 12))
    lines = ["%%MatrixMarket matrix array real general", "40 12", *(repr(float(v)) for v in values.T.ravel())]
    (out / "small.mtx").write_text("\n".join(lines) + "\n")
    dqgd.run(out, quick=True, matrix=out / "small.mtx")
    return out


def test_files(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {
        "small.mtx",
        "dqgd-fig3.csv",
        "dqgd-fig3.md",
        "dqgd-bits.csv",
        *(
            f"dqgd-{name}.{suffix}"
            for name in ("fig3", "momentum", "ball", "bits")
            for suffix in ("svg", "png")
        ),
    }
    assert "<svg" in (folder / "dqgd-fig3.svg").read_text()
    assert (folder / "dqgd-fig3.png").read_bytes().startswith(b"\x89PNG")


def test_every_claim_holds(folder: Path) -> None:
    text = (folder / "dqgd-fig3.md").read_text()
    assert "small, n = 12" in text
    verdicts = [
        line.split("|")[-2].strip() for line in text.splitlines() if line.endswith(("holds |", "hold** |"))
    ]
    assert verdicts == ["holds"] * 30


def test_points_say_what_the_simulation_says(folder: Path) -> None:
    with (folder / "dqgd-fig3.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    label = "Gaussian, n = 32, κ = 10"
    problem = gaussian(dqgd.SEED, 32, 10.0, 25)
    for point in sweep(label, problem, ["gd", "dq-hb"], [4.0]):
        mine = [
            r
            for r in rows
            if (r["problem"], r["method"], r["bits"]) == (label, point.method, f"{point.bits:.6g}")
        ]
        assert len(mine) == 1
        assert float(mine[0]["rate"]) == pytest.approx(point.rate, rel=1e-5)
        assert int(mine[0]["steps"]) == point.steps


def test_sizes_are_of_the_payloads_of_the_run(folder: Path) -> None:
    with (folder / "dqgd-bits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    codecs = [dqgd_bits.CODECS[name](4.0) for name in (dqgd_bits.PLAIN, dqgd_bits.CODED)]
    spec, sent = Spec(32, "float64"), [[], []]  # type: ignore[var-annotated]

    class Recorder(Cube):
        def __call__(self, u: np.ndarray, r: np.ndarray) -> np.ndarray:
            p = super().__call__(u, r)
            for i in range(len(u)):
                knobs = range_knob(float(r[i]))
                for codec, payloads in zip(codecs, sent, strict=True):
                    payloads.append(codec.encode(u[i], spec, Key(0), knobs=knobs)[0])
                    # entropy coding changes no number: the trajectory of both is this one
                    assert np.array_equal(codec.decode(payloads[-1], spec, Key(0), knobs), p[i])
            return p

    simulate("dq-gd", gaussian(dqgd.SEED, 32, 10.0, 2), Recorder(32, 4.0))
    label = "Gaussian, n = 32, κ = 10"
    for name, payloads in zip((dqgd_bits.PLAIN, dqgd_bits.CODED), sent, strict=True):
        (mine,) = [r for r in rows if (r["problem"], r["codec"], r["bits"]) == (label, name, "4")]
        assert int(mine["payloads"]) == len(payloads)
        lengths = np.array([len(p) for p in payloads])
        assert float(mine["payload"]) == pytest.approx(lengths.mean() * 8 / 32, rel=1e-5)
        assert float(mine["body"]) == pytest.approx((lengths.mean() - 5) * 8 / 32, rel=1e-5)
        assert float(mine["longest"]) == pytest.approx((lengths.max() - 5) * 8 / 32, rel=1e-5)
    assert np.mean([len(p) for p in sent[1]]) < np.mean([len(p) for p in sent[0]])


def test_entropy_coding_pays_for_long_vectors_alone() -> None:
    sizes = list(dqgd_bits.on_spheres([8, 1000], 10.0, 5))
    body = {(s.n, s.codec, round(s.reach, 6)): s.body for s in sizes}
    assert len(body) == len(sizes) == 8
    for reach in (0.5, 1.0):
        assert body[8, dqgd_bits.CODED, reach] > body[8, dqgd_bits.PLAIN, reach]
        assert body[1000, dqgd_bits.CODED, reach] < body[1000, dqgd_bits.PLAIN, reach] / 2
    text = "\n".join(dqgd_bits.markdown(sizes))
    assert "It costs bits at n = 8 with ‖u‖ = r,\nat n = 8 with half of it" in text


def test_the_ball_has_the_q_it_is_compared_at(folder: Path) -> None:
    with (folder / "dqgd-bits.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["ball"] != "nan"]
    balls = {(r["problem"], r["ball"]): r for r in rows if r["codec"] == dqgd_bits.BALL}
    others = [r for r in rows if r["codec"] != dqgd_bits.BALL]
    assert len(others) == 2 * len(balls) > 0
    for row in others:
        # the product of whole levels is below 2^(nR): by less than one level of one coordinate of n ≥ 12
        assert float(row["q"]) == pytest.approx(float(balls[row["problem"], row["ball"]]["q"]), rel=0.05)
        assert row["converged"] == "1"


def test_claims_that_do_not_hold_are_said_not_to() -> None:
    problem = gaussian(Key(1), 8, 10.0, 5)
    points = list(sweep("p", problem, dqgd.GRADIENT + dqgd.MOMENTUM, [3.0, 6.0]))
    limits = [p for p in points for _ in range(1 if p.bits == math.inf else 2) if p.bits in (math.inf, 6.0)]
    honest = dqgd.claims(dqgd.Setting("p", 8, 10.0, points, limits))
    assert honest[0].holds
    assert honest[1].holds
    bad = [
        p if p.method != "dq-gd" else Point(**{**vars(p), "rate": 1.0, "worst": 1.5, "reach": 2.0})
        for p in points
    ]
    told = dqgd.claims(dqgd.Setting("p", 8, 10.0, bad, limits))
    assert [c.holds for c in told[:3]] == [False, False, False]
    assert told[2].measured == "slower at 1 of 2 rates R"


def test_without_a_matrix_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dqgd, "WIDE", 16)
    monkeypatch.setattr(dqgd, "SIZE", 8)
    said: list[str] = []
    path = dqgd.run(tmp_path / "new" / "folder", quick=True, say=said.append)
    assert "No matrix file was given" in path.read_text()
    assert said[-1] == "pictures and tables"
    assert np.all([p.is_file() for p in path.parent.iterdir()])


def test_a_missing_matrix_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.mtx: not a readable Matrix Market file"):
        dqgd.run(tmp_path, quick=True, matrix=tmp_path / "none.mtx")
