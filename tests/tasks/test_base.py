from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedquant.errors import DataError
from fedquant.keys import Key
from fedquant.tasks.base import Dataset, Federation, load
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
