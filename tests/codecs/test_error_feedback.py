from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedquant import registry
from fedquant.codecs.base import Spec
from fedquant.codecs.error_feedback import ErrorFeedback
from fedquant.codecs.qsgd import QSGD
from fedquant.errors import CodecError, ConfigError
from fedquant.kernels import rng
from fedquant.keys import Key, Purpose

N = 64
SPEC = Spec(N)
KEY = Key(5, 6, purpose=Purpose.GRADIENT)


def gradient(round: int) -> np.ndarray:
    return rng.uniform(Key(77, round=round), N) - np.float32(0.5)


def build(**fields: Any) -> ErrorFeedback:
    codec: ErrorFeedback = registry.create("codec", {"name": "error_feedback", **fields})
    return codec


@pytest.mark.parametrize("beta", [None, 0.3, 0.9])
@pytest.mark.parametrize("lost", [(), (3, 4, 9)])
def test_the_residual_is_everything_that_did_not_arrive(beta: float | None, lost: tuple[int, ...]) -> None:
    codec = build(inner={"name": "qsgd", "bits": 4}, beta=beta)
    state, owed = codec.init(SPEC), np.zeros(N)
    for t in range(12):
        key, g = KEY.fold(round=t), gradient(t)
        payload, state = codec.encode(g, SPEC, key, state)
        state = codec.settle(state, t not in lost)
        owed += g - (0 if t in lost else codec.decode(payload, SPEC, key))
        # float32 arithmetic: 12 additions of numbers below 4
        np.testing.assert_allclose(state["residual"], owed, atol=12 * 4 * 2**-23)


def test_one_loss_is_given_back_once() -> None:
    codec = build(inner="qsgd")
    _, state = codec.encode(gradient(1), SPEC, KEY, codec.init(SPEC))
    lost = codec.settle(state, False)
    assert np.array_equal(lost["residual"], state["residual"] + state["sent"])
    again = codec.settle(lost, False)
    assert np.array_equal(again["residual"], lost["residual"])
    assert codec.settle(state, True).keys() == state.keys()


def test_state_is_a_value() -> None:
    codec = build(inner="qsgd")
    _, state = codec.encode(gradient(0), SPEC, KEY, codec.init(SPEC))
    before = {k: v.copy() for k, v in state.items()}
    codec.encode(gradient(1), SPEC, KEY.fold(round=1), state)
    codec.settle(state, False)
    assert all(np.array_equal(state[k], before[k]) for k in before)


def test_payloads_are_those_of_the_inner_codec_on_the_compensated_vector() -> None:
    inner = QSGD(bits=4)
    codec = build(inner={"name": "qsgd", "bits": 4}, beta=0.5)
    _, state = codec.encode(gradient(0), SPEC, KEY, codec.init(SPEC))
    key = KEY.fold(round=1)
    payload, _ = codec.encode(gradient(1), SPEC, key, state)
    z = gradient(1) + np.float32(0.5) * state["residual"]
    plain, _ = inner.encode(z, SPEC, key)
    assert payload[5:] == plain[5:]
    assert len(payload) == len(plain)


def test_default_weights() -> None:
    gamma = QSGD(bits=2).variance_bound(SPEC)
    assert gamma is not None
    assert build(inner={"name": "qsgd", "bits": 2}).weight(SPEC) == pytest.approx(1 / (1 + gamma))
    assert build(inner="float32").weight(SPEC) == 1.0
    knobs = {"bits": 8}
    finer = QSGD(bits=8).variance_bound(SPEC)
    assert finer is not None
    assert build(inner="qsgd").weight(SPEC, knobs) == pytest.approx(1 / (1 + finer))


def test_divergent_weights_are_refused() -> None:
    coarse = {"name": "qsgd", "levels": 1}  # γ = min(64/4, 9/2) = 4.5
    with pytest.raises(CodecError, match=r"beta=0\.9 lets the residual of qsgd grow.*2/\(1\+γ\)=0\.3636"):
        build(inner=coarse, beta=0.9).init(SPEC)
    build(inner=coarse, beta=0.36).init(SPEC)
    build(inner=coarse, beta=0.9, allow_unstable=True).init(SPEC)
    # a knob may make a codec coarser than its configuration
    codec = build(inner={"name": "qsgd", "bits": 8}, beta=1.0)
    state = codec.init(SPEC)
    with pytest.raises(CodecError, match="leave beta out"):
        codec.encode(gradient(0), SPEC, KEY, state, {"levels": 1})
    for beta in (0, 1.1, -1):
        with pytest.raises(ConfigError, match="beta"):
            build(inner=coarse, beta=beta)


def test_a_residual_beyond_float32_is_an_error() -> None:
    codec = build(inner="float32", beta=1.0)
    state = {"residual": np.full(N, 3e38, np.float32), "sent": np.zeros(N, np.float32)}
    with pytest.raises(CodecError, match="grown beyond float32"):
        codec.encode(np.full(N, 3e38, np.float32), SPEC, KEY, state)


def test_missing_state_is_refused() -> None:
    with pytest.raises(CodecError, match=r"state 'residual' is not float32\[64\]; call init"):
        build(inner="qsgd").encode(gradient(0), SPEC, KEY)


def test_nesting_keeps_states_apart() -> None:
    codec = build(inner={"name": "error_feedback", "inner": "qsgd"})
    state = codec.init(SPEC)
    assert set(state) == {"residual", "sent", "inner.residual", "inner.sent"}
    _, after = codec.encode(gradient(0), SPEC, KEY, state)
    assert set(codec.settle(after, False)) == set(state)


def test_beta_does_not_enter_the_checksum() -> None:
    payload, _ = build(inner="qsgd", beta=0.2).encode(gradient(0), SPEC, KEY, build(inner="qsgd").init(SPEC))
    assert build(inner="qsgd").decode(payload, SPEC, KEY).shape == (N,)
    with pytest.raises(CodecError, match="checksum differs"):
        QSGD().decode(payload, SPEC, KEY)
