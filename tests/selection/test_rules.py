from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest

from fedquant import registry
from fedquant.errors import CodecError
from fedquant.keys import Key
from fedquant.selection.rules import THRESHOLD, All, Relative, pack_threshold, read_threshold
from fedquant.wire import NO_KNOBS

KEY = Key(1)


def losses(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize("name", registry.names("selection"))
def test_the_first_epoch_sends_everything_and_needs_no_losses(name: str) -> None:
    rule = registry.create("selection", name)
    knobs, _ = rule.knobs(rule.init(), 1, 0)
    assert not rule.needs_losses(knobs)
    for n in (0, 5):
        kept = rule.keep(None, n, knobs, KEY)
        assert kept.dtype == np.bool_
        assert kept.shape == (n,)
        assert kept.all()


@pytest.mark.parametrize("name", registry.names("selection"))
def test_memory_is_a_value_and_survives_json(name: str) -> None:
    rule = registry.create("selection", name)
    before = rule.init()
    copy = dict(before)
    after = rule.observe(before, losses(1, 2))
    rule.knobs(after, 2, 1)
    assert before == copy
    assert json.loads(json.dumps(dict(after))) == after


def test_all_has_no_knobs() -> None:
    assert All().knobs({}, 5, 3) == (NO_KNOBS, {})
    assert All().observe({}, losses(1)) == {}


def test_relative_compares_with_a_share_of_the_last_epochs_mean() -> None:
    rule = Relative(factor=0.5)
    memory = rule.observe(rule.observe(rule.init(), losses(1, 3)), losses(5))
    knobs, memory = rule.knobs(memory, 4, 1)
    assert read_threshold(knobs) == 1.5
    assert rule.needs_losses(knobs)
    assert rule.keep(losses(1.4, 1.5, 1.6), 3, knobs, KEY).tolist() == [False, False, True]
    memory = rule.observe(memory, losses(100))
    same, memory = rule.knobs(memory, 5, 1)
    assert same == knobs
    later, _ = rule.knobs(memory, 6, 2)
    assert read_threshold(later) == 50


def test_relative_starts_again_at_zero_after_an_epoch_that_sent_nothing() -> None:
    rule = Relative()
    knobs, _ = rule.knobs(rule.observe(rule.init(), losses()), 4, 1)
    assert read_threshold(knobs) == 0
    assert rule.keep(losses(0, 1e-30), 2, knobs, KEY).tolist() == [False, True]


def test_relative_needs_its_losses() -> None:
    with pytest.raises(CodecError, match="losses are needed"):
        Relative().keep(None, 3, {THRESHOLD: pack_threshold(1.0)}, KEY)


@pytest.mark.parametrize("value", [0.0, -math.inf, math.inf, 1.5])
def test_threshold_round_trip(value: float) -> None:
    assert pack_threshold(value) == struct.pack("<f", value)
    assert read_threshold({THRESHOLD: pack_threshold(value)}) == value


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({}, "is None, expected 4 bytes"),
        ({THRESHOLD: 3}, "is 3, expected 4 bytes"),
        ({THRESHOLD: b"abc"}, "expected 4 bytes"),
        ({THRESHOLD: pack_threshold(math.nan)}, "is not a number"),
    ],
)
def test_a_broken_threshold_is_refused(knobs: dict[str, int | bytes], message: str) -> None:
    for read in (read_threshold, Relative().needs_losses, lambda k: Relative().keep(losses(1), 1, k, KEY)):
        with pytest.raises(CodecError, match=message):
            read(knobs)
