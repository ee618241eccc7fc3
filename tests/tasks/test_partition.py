from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fedquant.errors import DataError
from fedquant.keys import Key
from fedquant.tasks.partition import Partition, by_id, by_label, dirichlet, iid

KEY = Key(7)
LABELS = np.arange(2000) % 10


def check(parts: tuple[np.ndarray, ...], n: int, sensors: int) -> None:
    assert len(parts) == sensors
    assert all(len(part) for part in parts)
    assert all(part.dtype == np.int64 for part in parts)
    assert all((np.diff(part) > 0).all() for part in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**64 - 1), st.sampled_from([0.01, 0.3, 100.0]))
def test_every_sample_goes_to_one_sensor(sensors: int, spare: int, seed: int, alpha: float) -> None:
    n = sensors + spare
    labels = np.arange(n) % 7
    check(iid(Key(seed), n, sensors), n, sensors)
    check(dirichlet(Key(seed), labels, sensors, alpha), n, sensors)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "by_label"])
def test_schemes_partition_and_depend_on_the_seed_alone(scheme: str) -> None:
    partition = TypeAdapter(Partition).validate_python({"scheme": scheme})
    parts = partition.split(KEY, LABELS, 20)
    check(parts, 2000, 20)
    again = partition.split(Key(7, run=9), LABELS, 20)
    other = partition.split(Key(8), LABELS, 20)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(parts, other, strict=True))


def test_iid_is_even() -> None:
    assert {len(part) for part in iid(KEY, 2003, 20)} == {100, 101}


def label_share(parts: tuple[np.ndarray, ...]) -> float:
    """The share of a sensor's most frequent class, on average."""
    return float(np.mean([np.bincount(LABELS[p]).max() / len(p) for p in parts]))


def test_a_smaller_alpha_is_more_skewed() -> None:
    """Limits: one class (share 1) for alpha to 0, all ten alike (0.1) for alpha to infinity."""
    shares = [label_share(dirichlet(KEY, LABELS, 20, alpha)) for alpha in (0.02, 0.3, 3.0, 1e6)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.75
    assert shares[-1] < 0.12


def test_dirichlet_shares_have_the_right_spread() -> None:
    """Var of a share is (S-1)/(S²(Sα+1)). 4,000 shares (200 classes, S=20) at α=1: the sample
    variance has a relative deviation of √((kurtosis-1)/4000) ≈ 0.04; 5 sigma is 0.2."""
    labels = np.repeat(np.arange(200), 500)
    parts = dirichlet(KEY, labels, 20, 1.0)
    shares = np.array([np.bincount(labels[p], minlength=200) / 500 for p in parts])
    assert shares.var() == pytest.approx(19 / (400 * 21), rel=0.2)


def test_dirichlet_gives_every_sensor_min_samples() -> None:
    parts = dirichlet(KEY, LABELS, 100, 0.01, min_samples=5)
    check(parts, 2000, 100)
    assert min(len(part) for part in parts) == 5


@pytest.mark.parametrize(("sensors", "each"), [(20, 2), (7, 2), (5, 2), (3, 10), (20, 1), (13, 3)])
def test_by_label_gives_each_sensor_its_classes(sensors: int, each: int) -> None:
    parts = by_label(KEY, LABELS, sensors, each)
    check(parts, 2000, sensors)
    assert {len(set(LABELS[part].tolist())) for part in parts} == {each}
    holders = [sum(c in LABELS[part] for part in parts) for c in range(10)]
    assert max(holders) - min(holders) <= 1


def test_by_label_that_cannot_work() -> None:
    with pytest.raises(DataError, match=r"3 sensors with labels_per_sensor=2 cannot hold 10.*4 to 10"):
        by_label(KEY, LABELS, 3, 2)
    with pytest.raises(DataError, match="labels_per_sensor=11"):
        by_label(KEY, LABELS, 20, 11)
    rare = np.repeat(np.arange(2), (1, 99))
    with pytest.raises(DataError, match="1 samples of one class for 5 sensors"):
        by_label(KEY, rare, 5, 2)


def test_by_id() -> None:
    parts = by_id(np.array([30, 10, 30, 20, 10]))
    assert [part.tolist() for part in parts] == [[1, 4], [3], [0, 2]]
    assert by_id(np.array([], np.int64)) == ()


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "by_label"])
def test_too_few_samples(scheme: str) -> None:
    partition = TypeAdapter(Partition).validate_python({"scheme": scheme})
    with pytest.raises(DataError, match="5 samples are too few for 6 sensors"):
        partition.split(KEY, np.arange(5), 6)


@pytest.mark.parametrize(
    "wrong", [{"scheme": "random"}, {"alpha": 0}, {"alpha": float("inf")}, {"labels_per_sensor": 0}, {"x": 1}]
)
def test_wrong_fields_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Partition).validate_python(wrong)
