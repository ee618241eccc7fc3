from __future__ import annotations

import hashlib
from importlib import resources

import numpy as np
import pytest
import torch

from fedquant import registry
from fedquant.errors import ConfigError
from fedquant.keys import Key
from fedquant.tasks.watch import Watch, recordings

KEY = Key(0)


def test_the_recordings_are_complete_and_ship_with_their_notice() -> None:
    r = recordings()
    assert r.samples.dtype == np.int16
    assert r.samples.shape == (244102, 6)
    assert len(r.ends) == 140
    assert r.ends[-1] == len(r.samples)
    assert sorted(set(zip(r.subject.tolist(), r.side.tolist(), r.label.tolist(), strict=True))) == [
        (s, d, c) for s in range(1, 11) for d in (0, 1) for c in range(7)
    ]
    notice = resources.files("fedquant.tasks") / "data" / "LICENSE.watch"
    assert "David M. Burns" in notice.read_text()


@pytest.mark.parametrize("fold", range(5))
def test_folds(fold: int) -> None:
    task = Watch(fold=fold)
    federation = task.load(KEY)
    assert task.held_out == (2 * fold + 1, 2 * fold + 2)
    assert task.n_sensors == federation.n_sensors == 16
    assert federation.train.x.dtype == federation.test.x.dtype == np.float32
    assert federation.train.x.shape[1:] == federation.test.x.shape[1:] == task.shape == (6, 100)
    assert len(federation.train) + len(federation.test) == 4677
    assert set(federation.train.y.tolist()) == set(range(task.n_classes))
    # Contiguous parts: sensor by sensor, in time order.
    np.testing.assert_array_equal(np.concatenate(federation.parts), np.arange(len(federation.train)))


def test_windows_follow_the_recordings() -> None:
    """Sensor s holds its own windows, cut from its recordings in order, and none crosses an end."""
    task = Watch(fold=0)
    federation = task.load(KEY)
    r = recordings()
    begins = np.concatenate(([0], r.ends[:-1]))
    training = r.samples[np.repeat(r.subject > 2, r.ends - begins)].astype(np.float64)
    mean, deviation = training.mean(axis=0), training.std(axis=0)
    sensors = [(subject, side) for subject in range(3, 11) for side in (0, 1)]
    for sensor, (subject, side) in enumerate(sensors):
        expected, labels = [], []
        for i in np.flatnonzero((r.subject == subject) & (r.side == side)):
            for start in range(begins[i], r.ends[i] - 99, 50):
                expected.append((r.samples[start : start + 100] - mean) / deviation)
                labels.append(r.label[i])
        data = federation.sensor(sensor)
        np.testing.assert_array_equal(data.y, labels)
        np.testing.assert_allclose(data.x, np.array(expected).transpose(0, 2, 1), atol=2e-6)


def test_loading_is_deterministic_and_bit_identical() -> None:
    """The digest guards the bits of a fold: exact integer sums, float64, one rounding."""
    a, b = Watch(fold=3).load(Key(1)), Watch(fold=3).load(Key(2))
    assert a.train.x.tobytes() == b.train.x.tobytes()
    digest = hashlib.sha256(a.train.x.tobytes() + a.test.x.tobytes()).hexdigest()
    assert digest[:16] == "36aae025f5608a72"


def test_other_windows_and_folds() -> None:
    task = Watch(window=1.0, overlap=0.0, folds=10, fold=9)
    federation = task.load(KEY)
    assert task.shape == federation.train.x.shape[1:] == (6, 50)
    assert task.held_out == (10,)
    assert federation.n_sensors == 18 == task.n_sensors
    assert task.build_model()(torch.tensor(federation.test.x[:4])).shape == (4, 7)
    r = recordings()
    lengths = np.diff(r.ends, prepend=0)
    assert len(federation.train) + len(federation.test) == int((lengths // 50).sum())


def test_a_fold_too_high_names_the_range() -> None:
    with pytest.raises(ConfigError, match=r"fold=5 .*folds=5.*0 to 4"):
        Watch(fold=5)
    with pytest.raises(ConfigError, match="fold=3"):
        registry.create("task", {"name": "watch", "folds": 3, "fold": 3})


@pytest.mark.parametrize(
    "wrong",
    [{"folds": 1}, {"fold": -1}, {"window": 0}, {"overlap": 1}, {"norm": "layer"}, {"typo": 1}],
)
def test_wrong_fields_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        registry.create("task", {"name": "watch", **wrong})
