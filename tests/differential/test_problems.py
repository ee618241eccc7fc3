from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedquant.differential.arrays import norm
from fedquant.differential.logistic import logistic, random_logistic
from fedquant.differential.normal import normal
from fedquant.differential.problems import Problem, gaussian, least_squares, matrix_market, of_matrix
from fedquant.errors import ConfigError, DataError
from fedquant.keys import Key

KEY = Key(7)
A = normal(KEY, (20, 6))
Y = normal(KEY.fold(stream=1), (20,))


def test_normal_draws() -> None:
    n = 200_000
    x = normal(KEY, (n,))
    # 5 standard errors of the mean (1/√n), the variance (√(2/n)) and the kurtosis (√(96/n))
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / n)
    below = [0.02275, 0.15866, 0.5, 0.84134, 0.97725]  # Φ(−2), …, Φ(2)
    for z, share in zip((-2, -1, 0, 1, 2), below, strict=True):
        assert abs((x < z).mean() - share) < 5 * math.sqrt(share * (1 - share) / n) + 1e-5
    assert np.array_equal(normal(KEY, (3, 4)).ravel(), x[:12])  # draw i is a function of (key, i)
    assert np.isfinite(x).all()


def gradient_by_differences(f: Any, x: np.ndarray) -> np.ndarray:
    h = 1e-6
    return np.array([(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(x.size)])


def test_least_squares_and_ridge() -> None:
    for ridge in (0.0, 0.7):
        problem = least_squares(A, Y, ridge=ridge)

        def f(x: np.ndarray, ridge: float = ridge) -> float:
            return 0.5 * float(np.sum((Y - A @ x) ** 2)) + 0.5 * ridge * float(x @ x)

        x = normal(KEY.fold(stream=2), (6,))
        assert problem.gradient(x) == pytest.approx(gradient_by_differences(f, x), rel=1e-6, abs=1e-6)
        values = np.linalg.eigvalsh(A.T @ A + ridge * np.eye(6))
        assert float(problem.L) == pytest.approx(values[-1])
        assert problem.mu == pytest.approx(values[0])
        assert np.abs(problem.gradient(problem.x_star)).max() < 1e-13
        assert float(problem.D) == pytest.approx(norm(problem.x_star))
    wide = least_squares(A.T, normal(KEY, (6,)), ridge=0.1)  # rank-deficient but for the ridge
    assert wide.mu == pytest.approx(0.1)


def test_logistic_regression() -> None:
    labels = np.sign(Y)
    problem = logistic(A, labels, 0.05, x0=np.ones(6))

    def f(x: np.ndarray) -> float:
        return float(np.log1p(np.exp(-labels * (A @ x))).mean()) + 0.025 * float(x @ x)

    x = normal(KEY.fold(stream=2), (6,))
    assert problem.gradient(x) == pytest.approx(gradient_by_differences(f, x), rel=1e-6, abs=1e-8)
    assert np.abs(problem.gradient(problem.x_star)).max() < 1e-14
    assert (problem.quadratic, float(problem.mu)) == (False, 0.05)
    # L and μ hold: ‖∇f(x) − ∇f(y)‖ ≤ L‖x − y‖, and at least μ‖x − y‖
    points = normal(KEY.fold(stream=3), (50, 6))
    for a, b in zip(points[:25], points[25:], strict=True):
        ratio = np.linalg.norm(problem.gradient(a) - problem.gradient(b)) / np.linalg.norm(a - b)
        assert problem.mu <= ratio <= problem.L
    separable = logistic(np.ones((5, 2)) * 1e3, np.ones(5), 1e-6)
    assert np.abs(separable.gradient(separable.x_star)).max() < 1e-12


@pytest.mark.parametrize("kappa", [1.0, 10.0, 1e4])
def test_the_gaussian_ensemble_has_its_condition_number(kappa: float) -> None:
    problem = gaussian(KEY, 8, kappa, 5)
    assert problem.L / problem.mu == pytest.approx(np.full(5, kappa), rel=1e-9)
    assert problem.x0.shape == problem.x_star.shape == (5, 8)
    assert (np.linalg.norm(problem.gradient(problem.x_star), axis=1) < 1e-11).all()


@pytest.mark.parametrize(
    "make", [lambda i: gaussian(KEY, 5, 9.0, i), lambda i: random_logistic(KEY, 5, 0.1, i)]
)
def test_instances_do_not_depend_on_their_number(make: Any) -> None:
    many, few = make(6), make(2)
    for i in range(2):
        one, other = many.take(i), few.take(i)
        for name in ("x0", "x_star", "L", "mu", "D"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-12)
        assert one.gradient(one.x0) == pytest.approx(many.gradient(many.x0)[i], rel=1e-12)
    chosen = many.take(np.array([False, True, False, True, False, False]))
    assert np.array_equal(chosen.x0, many.x0[[1, 3]])


def test_a_shared_matrix() -> None:
    problem = of_matrix(KEY, A, 9)
    assert problem.hessian.shape == (6, 6)
    few = problem.take(np.arange(9) < 2)
    assert few.gradient(few.x0) == pytest.approx(problem.gradient(problem.x0)[:2])
    assert few.take(1).gradient(few.x0[1]) == pytest.approx(problem.gradient(problem.x0)[1])


def test_the_real_matrix(ash219: Path) -> None:
    matrix = matrix_market(ash219)
    assert matrix.shape == (219, 85)
    assert matrix.sum() == 438
    problem = of_matrix(KEY, matrix, 3)
    assert problem.L / problem.mu == pytest.approx(np.full(3, 9.1498), rel=1e-4)


def test_matrix_market_files_that_cannot_be_read(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    head = "%%MatrixMarket matrix array {} general\n2 1\n"
    files = {
        "missing.mtx": None,
        "text.mtx": "hello\n",
        "cut.mtx": head.format("real") + "1.0\n",
        "nan.mtx": head.format("real") + "1.0\nnan\n",
        "complex.mtx": head.format("complex") + "1 2\n3 4\n",
    }
    for name, text in files.items():
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=name):
            matrix_market(tmp_path / name)
    (tmp_path / "good.mtx").write_text(head.format("real") + "1.0\n2.5\n")
    assert matrix_market(tmp_path / "good.mtx").tolist() == [[1.0], [2.5]]


def holed(x: np.ndarray, value: float) -> np.ndarray:
    x = x.copy()
    x[(2,) * x.ndim] = value
    return x


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: least_squares(np.ones((5, 2)), np.ones(5)), DataError, "5×2 is rank-deficient.*ridge > 0"),
        (lambda: least_squares(A.T, np.ones(6)), DataError, "rank-deficient"),
        (lambda: least_squares(np.zeros((3, 2)), np.ones(3)), DataError, "rank-deficient"),
        (lambda: least_squares(holed(A, np.nan), Y), DataError, r"matrix: nan at \[2, 2\]"),
        (lambda: least_squares(A, holed(Y, np.inf)), DataError, r"y: inf at \[2\]"),
        (lambda: least_squares(A, Y[:-1]), DataError, "do not fit"),
        (lambda: least_squares(A, Y, x0=np.ones(5)), DataError, r"x0 has shape \(5,\), expected \(6,\)"),
        (lambda: least_squares(A, Y, ridge=-1.0), ConfigError, "ridge=-1.0 is negative"),
        (lambda: least_squares(A, Y, L=1e-3), ConfigError, "L=0.001 does not hold"),
        (lambda: least_squares(A, Y, mu=1e6), ConfigError, "mu=1000000.0 does not hold"),
        (lambda: least_squares(A, Y, mu=0.0), ConfigError, "mu=0.0 does not hold"),
        (lambda: least_squares(A, Y, D=1e-9), ConfigError, "D=1e-09 does not hold"),
        (lambda: least_squares(A, Y * 0), ConfigError, "x̂₀ is the minimizer"),
        (lambda: gaussian(KEY, 5, 0.5), ConfigError, "κ ≥ 1"),
        (lambda: gaussian(KEY, 5, 2.0, rows=4), ConfigError, "1 ≤ n ≤ rows"),
        (lambda: gaussian(KEY, 1, 2.0), ConfigError, "κ = 1 for n = 1"),
        (lambda: logistic(A, np.sign(Y), 0.0), ConfigError, "not strongly convex"),
        (lambda: logistic(A, Y, 0.1), DataError, "labels are −1 or 1"),
        (lambda: logistic(A, np.ones(3), 0.1), DataError, "do not fit"),
        (lambda: logistic(holed(A, np.nan), np.sign(Y), 0.1), DataError, "not finite"),
    ],
)
def test_bad_problems_are_refused(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_given_constants_are_kept() -> None:
    problem: Problem = least_squares(A, Y, L=100.0, mu=0.5, D=50.0)
    assert (float(problem.L), float(problem.mu), float(problem.D)) == (100.0, 0.5, 50.0)
    assert least_squares(A, Y * 0, D=1.0).D == 1.0
