from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedquant.errors import DataError
from fedquant.keys import Key
from fedquant.tasks.base import Dataset, Federation, Lazy, load
from fedquant.tasks.watch import Watch


def small(n: int = 6) -> Dataset:
    return Dataset(np.arange(2 * n, dtype=np.float32).reshape(n, 2), np.arange(n, dtype=np.int64))


def test_take_copies_in_the_given_order() -> None:
    data = small()
    taken = data.take([4, 1])
    assert len(taken) == 2
    assert taken.y.tolist() == [4, 1]
    assert taken.x.tolist() == [[8, 9], [2, 3]]
    taken.x[:] = -1
    assert data.x[4].tolist() == [8, 9]
    assert len(data.take([])) == 0


def test_samples_and_labels_must_match() -> None:
    with pytest.raises(DataError, match="3 samples but 2 labels"):
        Dataset(np.zeros((3, 1), np.float32), np.zeros(2, np.int64))


def lazy(n: int = 6) -> tuple[Dataset, list[int]]:
    """The same as `small`, and a list of what was made."""
    made: list[int] = []

    def make(i: int) -> np.ndarray:
        made.append(i)
        return np.array([2 * i, 2 * i + 1], np.float32)

    return Dataset(Lazy(make, np.arange(n), (2,)), np.arange(n)), made  # type: ignore[arg-type]


@pytest.mark.parametrize("chosen", [[4, 1], [], slice(1, 5, 2), np.arange(6) > 2, 3, [[0, 5], [2, 2]]])
def test_lazy_samples_are_indexed_like_an_array(chosen: object) -> None:
    data, made = lazy()
    expected = small().x[chosen]  # type: ignore[index]
    got = data.x[chosen]  # type: ignore[index]
    assert (got.shape, got.dtype, got.tolist()) == (expected.shape, np.float32, expected.tolist())
    assert made == (expected[..., 0].ravel() // 2).tolist()
    assert (data.x.shape, data.x.dtype, len(data.x)) == ((6, 2), np.float32, 6)
    with pytest.raises(TypeError, match="item assignment"):
        data.x[0] = 0
    with pytest.raises(IndexError):
        data.x[6]


def test_lazy_samples_are_made_by_take_and_not_by_only() -> None:
    data, made = lazy()
    some = data.only([5, 3, 1]).only([2, 0])
    assert isinstance(some.x, Lazy)
    assert (some.x.shape, some.y.tolist(), made) == ((2, 2), [1, 5], [])
    taken = some.take([1])
    assert isinstance(taken.x, np.ndarray)
    assert (taken.x.tolist(), taken.y.tolist(), made) == ([[10, 11]], [5], [5])
    eager = small().only([4, 1])
    assert (eager.x.tolist(), eager.y.tolist()) == ([[8, 9], [2, 3]], [4, 1])


def test_federation_gives_each_sensor_its_part() -> None:
    federation = Federation(small(), small(2), (np.array([5, 0]), np.array([1, 2, 3])))
    assert federation.n_sensors == 2
    assert federation.sizes == (2, 3)
    assert federation.sensor(0).y.tolist() == [5, 0]


@pytest.mark.parametrize("sensor", [-1, 2])
def test_unknown_sensor(sensor: int) -> None:
    federation = Federation(small(), small(), (np.array([0]), np.array([1])))
    with pytest.raises(DataError, match=f"sensor {sensor} does not exist: ids run from 0 to 1"):
        federation.sensor(sensor)


def test_load_remembers_by_task_and_seed_and_is_read_only() -> None:
    first = load(Watch(fold=1), Key(3, run=1))
    assert load(Watch(fold=1), Key(3, run=2, round=5)) is first
    assert load(Watch(fold=1), Key(4)) is not first
    assert load(Watch(fold=2), Key(3)) is not first
    for array in (first.train.x, first.train.y, first.test.x, first.test.y, *first.parts):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_losses_and_score() -> None:
    task = Watch()
    outputs = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])
    losses = task.losses(outputs, torch.tensor([0, 1]))
    assert losses.dtype == torch.float32
    np.testing.assert_allclose(losses, [np.log(2), np.log(4 / 3)], rtol=1e-6)
    assert task.score(outputs, torch.tensor([1, 1])) == 0.5
    assert task.score(outputs, torch.tensor([0, 1])) == 1.0
