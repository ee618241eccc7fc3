from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fedquant.keys import Key
from fedquant.tasks.sampling import Sampling

KEY = Key(5)
ROOT = Path(__file__).resolve().parents[2]


def batch(
    scheme: str, turn: int, n: int, size: int, epoch: int = 1, sensor: int = 0, key: Key = KEY
) -> list[int]:
    sampling = TypeAdapter(Sampling).validate_python({"scheme": scheme})
    chosen = sampling.batch(key, sensor=sensor, turn=turn, n=n, batch_size=size, turns_per_epoch=epoch)
    assert chosen.dtype == np.int64
    return chosen.tolist()


def test_random_draws_without_replacement_and_afresh() -> None:
    first = batch("random", 1, 100, 16)
    assert len(set(first)) == 16
    assert set(first) <= set(range(100))
    assert batch("random", 1, 100, 16) == first
    others = [
        batch("random", 2, 100, 16),
        batch("random", 1, 100, 16, sensor=1),
        batch("random", 1, 100, 16, key=Key(6)),
    ]
    assert first not in others
    assert sorted(batch("random", 1, 5, 16)) == [0, 1, 2, 3, 4]
    assert batch("random", 1, 0, 16) == []


def test_random_is_uniform() -> None:
    """4,000 turns of 5 of 20: each sample 1,000 times, deviation √(4000·¼·¾) = 27; 5 sigma."""
    counts = np.zeros(20)
    for turn in range(1, 4001):
        counts[batch("random", turn, 20, 5)] += 1
    assert abs(counts - 1000).max() < 5 * 27.4


@pytest.mark.parametrize("n", [1, 7, 99, 100, 101, 160])
def test_epochs_use_each_sample_once(n: int) -> None:
    turns = Sampling("epochs").turns_per_epoch([160, n], 16)
    assert turns == 10
    epochs = [[batch("epochs", e * turns + t + 1, n, 16, turns) for t in range(turns)] for e in range(2)]
    for parts in epochs:
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert sorted(i for part in parts for i in part) == list(range(n))
    if n > 7:
        assert epochs[0] != epochs[1]


def test_short_epochs_are_capped_at_the_batch() -> None:
    parts = [batch("epochs", t, 100, 16, 2) for t in (1, 2)]
    assert [len(p) for p in parts] == [16, 16]
    assert len(set(parts[0] + parts[1])) == 32


def test_stream_runs_once_in_time_order() -> None:
    assert [batch("stream", t, 10, 4) for t in (1, 2, 3, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], []]


def test_epochs_of_rounds() -> None:
    sampling = Sampling("epochs")
    assert sampling.turns_per_epoch([3, 33, 5], 16) == 3
    assert sampling.turns_per_epoch([32], 16) == 2
    assert Sampling("epochs", epoch_rounds=7).turns_per_epoch([1000], 16) == 7
    assert [sampling.epoch(r, 3) for r in (1, 2, 3, 4, 6, 7)] == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("scheme", ["random", "epochs", "stream"])
def test_turns_count_from_one(scheme: str) -> None:
    with pytest.raises(ValueError, match="turn=0"):
        batch(scheme, 0, 10, 4)


@pytest.mark.parametrize("wrong", [{"scheme": "all"}, {"epoch_rounds": 0}, {"x": 1}])
def test_wrong_fields_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Sampling).validate_python(wrong)


def test_sampling_needs_no_torch() -> None:
    code = "import sys, fedquant.tasks.sampling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
