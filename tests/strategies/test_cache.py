from __future__ import annotations

import numpy as np
import pytest

from fedquant.codecs.grid import Quantized
from fedquant.errors import CodecError
from fedquant.tasks.base import Dataset
from strategies.cache import Cache


def samples(*values: float) -> Dataset:
    x = np.array(values, np.float32)[:, None]
    return Dataset(x, np.arange(len(values)))


def levels(data: Dataset, m: int = 3) -> Quantized:
    scales = np.ones(len(data), np.float32)
    return Quantized((data.x * (m - 1)).astype(np.int32), scales, m, "max")


def test_samples_stay_in_order_of_arrival() -> None:
    cache = Cache()
    cache.add(3, samples(0.0, 0.5))
    cache.add(1, samples(1.0))
    cache.add(3, samples(-0.5, -1.0))
    assert (len(cache), cache.of(3), cache.of(1), cache.of(9)) == (5, 4, 1, 0)
    assert cache.take(range(5)).x[:, 0].tolist() == [0, 0.5, 1, -0.5, -1]
    taken = cache.take([4, 0])
    taken.x[:] = 7
    assert cache.take([4, 0]).x[:, 0].tolist() == [-1, 0]


def test_a_sample_is_refined_once() -> None:
    cache = Cache()
    for sensor, data in ((3, samples(0.0, 0.5)), (1, samples(1.0)), (3, samples(-0.5))):
        cache.add(sensor, data, levels(data))
    places = np.array([1, 2])
    held = cache.look(3, places)
    assert held.levels[:, 0].tolist() == [1, -1]
    finer = Quantized(np.array([[5], [-4]]), held.scales, 9, "max")
    assert cache.refine(3, places, finer).x[:, 0].tolist() == [0.625, -0.5]
    assert cache.take(range(4)).x[:, 0].tolist() == [0, 0.625, 1, -0.5]
    assert cache.look(3, np.array([0])).levels.tolist() == [[0]]
    for again in ([1], [0, 2]):
        with pytest.raises(CodecError, match="a second time"):
            cache.look(3, np.array(again))
    with pytest.raises(CodecError, match="of no sample"):
        cache.look(3, np.array([], np.int64))
