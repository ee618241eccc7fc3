from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedquant import wire
from fedquant.codecs.data import DataSpec
from fedquant.codecs.dataq import DataQ
from fedquant.codecs.grid import Quantized
from fedquant.codecs.refinement import Refinement, held_by
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key, Purpose
from fedquant.wire import NO_KNOBS

SPEC = DataSpec((5,), 20, 3)
KEY = Key(1, 2, 3, 4, Purpose.REFINEMENT)


def batch() -> np.ndarray:
    return rng.uniform(Key(8), 20 * 5).reshape(20, 5) - np.float32(0.4)


def sent(x: np.ndarray, **fields: Any) -> Quantized:
    codec, key = DataQ(**fields), KEY.fold(purpose=Purpose.DATA)
    return codec.decode_levels(codec.encode(x, np.arange(20) % 3, SPEC, key), SPEC, key)[0]


@pytest.mark.parametrize("scale", ["max", "l2"])
@pytest.mark.parametrize("places", [[3], [0, 7, 19], list(range(20))])
def test_refined_samples_are_those_of_the_finer_grid(scale: Any, places: list[int]) -> None:
    x, at = batch(), np.array(places)
    held = sent(x, m=8, scale=scale)
    mine = held_by(x[at], held.scales[at], 8, scale)
    assert np.array_equal(mine.levels, held.levels[at])
    refinement = Refinement(4)
    payload = refinement.encode(at, x[at], mine, 20, SPEC, KEY)
    got, finer = refinement.decode(payload, 20, lambda p: held_by(x[p], held.scales[p], 8, scale), SPEC, KEY)
    assert got.tolist() == places
    assert np.array_equal(finer.levels, mine.on_grid(x[at], 29))
    coarse_error = np.abs(mine.samples() - x[at]).max()
    assert np.abs(finer.samples() - x[at]).max() < 0.5 * coarse_error


def test_forged_refinements_are_refused_or_sound() -> None:
    x, refinement = batch(), Refinement(4)
    held, context = sent(x, m=8), refinement.context(SPEC, KEY, NO_KNOBS)
    good = refinement.encode(
        np.array([2, 5]), x[[2, 5]], held_by(x[[2, 5]], held.scales[[2, 5]], 8, "max"), 20, SPEC, KEY
    )
    body = wire.unframe(good, context)
    for trial in range(400):
        key = Key(9, round=trial)
        bad = bytearray(body[: 1 + trial % len(body)] if trial % 3 == 0 else body)
        bad[int(rng.integers(key, 1, len(bad))[0])] ^= 1 + int(rng.integers(key, 1, 255)[0])
        try:
            places, finer = refinement.decode(
                wire.frame(bytes(bad), context),
                20,
                lambda p: held_by(x[p], held.scales[p], 8, "max"),
                SPEC,
                KEY,
            )
        except CodecError:
            continue
        assert ((places >= 0) & (places < 20)).all()
        assert np.isfinite(finer.samples()).all()
