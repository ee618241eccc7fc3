"""Convex tasks: what their fields stand for, and data that cannot be used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedquant import registry
from fedquant.differential.arrays import norm
from fedquant.differential.logistic import random_logistic
from fedquant.differential.normal import normal
from fedquant.differential.problems import gaussian
from fedquant.errors import ConfigError, DataError
from fedquant.keys import Key
from fedquant.tasks.convex import Convex

KEY = Key(7, run=99)
TASKS: list[dict[str, Any]] = [
    {"name": "least_squares", "n": 6},
    {"name": "least_squares", "n": 6, "workers": 3, "spread": 2.0},
    {"name": "logistic", "n": 4},
    {"name": "logistic", "n": 4, "rows": 30, "workers": 3},
]


def made(name: str, **fields: Any) -> Convex:
    loaded: Convex = registry.create("task", {"name": name, **fields}).load(KEY)
    return loaded


@pytest.mark.parametrize("config", TASKS, ids=str)
def test_f_is_the_mean_of_the_workers_functions(config: dict[str, Any]) -> None:
    task = registry.create("task", config)
    data = task.load(KEY)
    assert len(data.workers) == len(data.rows) == task.n_sensors
    assert data.problem.quadratic == task.quadratic == (config["name"] == "least_squares")
    for i in range(3):
        x = normal(Key(i), data.problem.x0.shape)
        mean = np.mean([f.gradient(x) for f in data.workers], axis=0)
        assert mean == pytest.approx(data.problem.gradient(x), rel=1e-12)
    assert norm(data.problem.gradient(data.problem.x_star)) < 1e-12 * data.problem.L
    assert all(np.array_equal(f.x0, data.problem.x0) for f in data.workers)
    assert norm(data.problem.x0 - data.problem.x_star) == pytest.approx(float(data.problem.D))


@pytest.mark.parametrize("config", TASKS, ids=str)
def test_smoothness_of_every_worker(config: dict[str, Any]) -> None:
    for f in registry.create("task", config).load(KEY).workers:
        for i in range(20):
            x, y = normal(Key(i), f.x0.shape), normal(Key(i, part=1), f.x0.shape)
            change = norm(f.gradient(x) - f.gradient(y)) / norm(x - y)
            assert f.mu * (1 - 1e-9) <= change <= f.L * (1 + 1e-9)


def test_the_problems_are_those_of_the_library() -> None:
    own, same = made("least_squares", n=6, kappa=5.0, rows=9), gaussian(Key(7), 6, 5.0, rows=9)
    assert np.array_equal(own.problem.hessian, same.hessian)
    assert np.array_equal(own.problem.x0, same.x0)
    assert own.rows == (9,)
    own, same = made("logistic", n=4, ridge=0.5, rows=30), random_logistic(Key(7), 4, 0.5, m=30)
    assert np.array_equal(own.problem.signed, same.signed)
    assert own.rows == (30,)


def test_spread_is_that_of_the_workers_smoothness() -> None:
    data = made("least_squares", n=6, kappa=5.0, workers=3, spread=3.0)
    assert [float(f.L) for f in data.workers] == pytest.approx([5, 15, 45])
    assert [float(f.mu) for f in data.workers] == pytest.approx([1, 3, 9])
    assert data.rows == (12,) * 3


def test_workers_share_one_set_of_rows() -> None:
    whole, shared = made("logistic", n=4, rows=90), made("logistic", n=4, rows=30, workers=3)
    assert np.array_equal(np.concatenate([f.signed for f in shared.workers]), whole.problem.signed)


def test_given_constants_are_used() -> None:
    data = made("least_squares", n=6, kappa=5.0, L=7.0, mu=0.5, D=100.0)
    assert [float(v) for v in (data.problem.L, data.problem.mu, data.problem.D)] == [7.0, 0.5, 100.0]
    assert data.workers == (data.problem,)


def test_the_seed_alone_draws() -> None:
    first, again, other = (
        registry.create("task", TASKS[0]).load(key).problem for key in (Key(7), Key(7, 1, 2), Key(8))
    )
    assert np.array_equal(first.hessian, again.hessian)
    assert not np.array_equal(first.hessian, other.hessian)


MATRIX = "%%MatrixMarket matrix array real general\n4 2\n1\n0\n2\n1\n0\n1\n1\n3\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("scipy", reason="Matrix Market files need scipy")
    (tmp_path / "matrices").mkdir()
    (tmp_path / "matrices" / "small.mtx").write_text(MATRIX)
    monkeypatch.setenv("FEDQUANT_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("path", ["small", "small.mtx", "{folder}/matrices/small.mtx"])
def test_matrices_by_path_or_name(path: str, folder: Path) -> None:
    data = made("matrix", path=path.format(folder=folder), ridge=0.5)
    a = np.array([[1, 0, 2, 1], [0, 1, 1, 3]]).T
    assert data.problem.hessian == pytest.approx(a.T @ a + 0.5 * np.eye(2))
    assert data.rows == (4,)


def test_a_matrix_that_is_not_there(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no file large, .*large\.mtx; give a path, or set FEDQUANT_DATA"):
        made("matrix", path="large")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("4 2\n1\n0\n2\n1\n2\n0\n4\n2\n", "a matrix of 4×2 is rank-deficient"),
        ("4 2\n1\n0\n2\n1\n2\n0\n4\nnan\n", "every number must be finite"),
        ("4 2\n1\n0\n", "not a readable Matrix Market file"),
    ],
)
def test_matrices_that_cannot_be_used(body: str, message: str, folder: Path) -> None:
    (folder / "bad.mtx").write_text(f"%%MatrixMarket matrix array real general\n{body}")
    with pytest.raises(DataError, match=message):
        made("matrix", path=str(folder / "bad.mtx"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "least_squares", "n": 0}, "least_squares.n: Input should be greater than or equal to 1"),
        ({"name": "least_squares", "kappa": 0.5}, "least_squares.kappa"),
        ({"name": "least_squares", "workers": 99, "spread": 2.0}, "spread=2 over 99 workers"),
        ({"name": "least_squares", "D": -1}, "least_squares.D: Input should be greater than 0, got -1"),
        ({"name": "matrix"}, "matrix.path: Field required"),
        ({"name": "matrix", "path": "x", "workers": 2}, "matrix.workers: unknown key"),
        ({"name": "logistic", "ridge": 0}, "logistic.ridge"),
    ],
)
def test_mistakes_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        registry.create("task", config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 6, "rows": 5}, "needs 1 ≤ n ≤ rows"),
        ({"n": 6, "L": 2.0}, "L=2.0 does not hold: the problem has L = 10"),
        ({"n": 6, "mu": 2.0}, "mu=2.0 does not hold"),
        ({"n": 6, "D": 0.01}, "D=0.01 does not hold"),
    ],
)
def test_what_does_not_hold_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        made("least_squares", **fields)


def test_no_torch_is_loaded() -> None:
    text = "import sys, fedquant.tasks.convex; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
