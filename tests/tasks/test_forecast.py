from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from fedquant import registry
from fedquant.errors import ConfigError, DataError
from fedquant.keys import Key
from fedquant.scenario import load as load_scenario
from fedquant.tasks import base, learn
from fedquant.tasks.base import Dataset, Federation
from fedquant.tasks.forecast import Forecast
from fedquant.tasks.watch import recordings

KEY = Key(0)


def test_labels_lie_ahead_of_their_windows() -> None:
    """Cut again from the raw counts, recording by recording: none crosses an end."""
    task = Forecast(window=1.0, overlap=0.0, ahead=0.2)
    federation = task.load(KEY)
    assert task.shape == federation.train.x.shape[1:] == (1, 50)
    assert (task.n_classes, task.labels, federation.train.y.dtype) == (0, "float32", np.float32)
    r = recordings()
    magnitude = np.rint(np.linalg.norm(r.samples[:, :3].astype(np.float64), axis=1))
    begins = np.concatenate(([0], r.ends[:-1]))
    known = magnitude[np.repeat(r.subject > 2, r.ends - begins)]
    signal = (magnitude - known.mean()) / known.std()
    sensors = [(subject, side) for subject in range(3, 11) for side in (0, 1)]
    for sensor, (subject, side) in enumerate(sensors):
        windows, labels = [], []
        for i in np.flatnonzero((r.subject == subject) & (r.side == side)):
            for start in range(begins[i], r.ends[i] - 59, 50):
                windows.append(signal[start : start + 50])
                labels.append(signal[start + 59])
        data = federation.sensor(sensor)
        np.testing.assert_allclose(data.x[:, 0], np.array(windows), atol=2e-6)
        np.testing.assert_allclose(data.y, np.array(labels), atol=2e-6)


def test_loading_is_bit_identical_on_every_machine() -> None:
    """The digest guards the bits: whole counts, exact integer sums, float64, one rounding."""
    federation = Forecast(fold=3).load(KEY)
    arrays = [a for data in (federation.train, federation.test) for a in (data.x, data.y)]
    digest = hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()
    assert digest[:16] == "04c698767dabda2a"


def test_half_the_bits_are_the_same_targets_rounded() -> None:
    full, half = Forecast().load(KEY), Forecast(targets="float16").load(KEY)
    assert half.test.y.dtype == np.float16
    np.testing.assert_array_equal(half.train.y, full.train.y.astype(np.float16))
    assert half.train.x.tobytes() == full.train.x.tobytes()


@pytest.mark.parametrize("targets", ["float16", "float32"])
def test_a_regression_has_a_loss_and_no_accuracy(targets: base.Targets) -> None:
    task = Forecast(targets=targets, window=1.0)
    outputs = torch.tensor([1.0, 2.5])
    losses = task.losses(outputs, torch.tensor([1.5, 0.5], dtype=getattr(torch, targets)))
    assert losses.dtype == torch.float32
    assert losses.tolist() == [0.25, 4.0]
    data = task.load(KEY).test.take(range(7))
    model = learn.initialise(task, KEY)
    assert model(torch.tensor(data.x)).shape == (7,)
    own = learn.losses(model, task, data)
    assert learn.evaluate(model, task, data) == {"loss": pytest.approx(own.mean(dtype=np.float64), rel=1e-6)}


def test_what_the_scenario_says_of_simple_guesses() -> None:
    """The two losses in the comment of scenarios/forecast.yaml."""
    test = load_scenario("forecast").build_task.load(KEY).test
    last = test.x[:, 0, -1].astype(np.float64)
    assert np.mean(test.y.astype(np.float64) ** 2) == pytest.approx(0.436, abs=5e-4)
    assert np.mean((test.y - last) ** 2) == pytest.approx(0.431, abs=5e-4)


class Mislabelled(Forecast):
    def load(self, key: Key) -> Federation:
        found = super().load(key)
        train = Dataset(found.train.x, found.train.y.astype(np.float64))
        return Federation(train, found.test, found.parts)


def test_labels_of_another_type_are_refused() -> None:
    with pytest.raises(DataError, match="forecast: the labels are float64, expected float32"):
        base.load(Mislabelled(), KEY)


@pytest.mark.parametrize(
    "wrong", [{"ahead": 0.0}, {"ahead": 11}, {"targets": "float64"}, {"norm": "group"}, {"fold": 5}]
)
def test_wrong_fields_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        registry.create("task", {"name": "forecast", **wrong})
