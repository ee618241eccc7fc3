"""What every codec of vectors must do, whatever it does to numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedquant import registry, wire
from fedquant.codecs.base import Codec, Spec
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Direction, Key, Purpose
from fedquant.wire import NO_KNOBS

KEY = Key(11, 12, 3, 4, Purpose.GRADIENT)
SIZES = [0, 1, 2, 3, 7, 255, 256, 257, 1023, 2048, 2500]

NEEDS = {"error_feedback": {"inner": {"name": "qsgd", "bits": 4}}}  # keys without a default

CODECS: list[Any] = [
    *({"name": name, **NEEDS.get(name, {})} for name in registry.names("codec")),
    {"name": "error_feedback", "inner": {"name": "error_feedback", "inner": "float32"}},
    {"name": "error_feedback", "inner": {"name": "sign", "scope": "segment"}},
    {"name": "error_feedback", "inner": {"name": "topk", "k": 4}},
    {"name": "error_feedback", "inner": "qtopk"},
    {"name": "error_feedback", "inner": "sparse"},
    {"name": "topk", "ratio": 0.3, "values": "bfloat16", "scope": "segment"},
    {"name": "topk", "k": 5, "scope": 4},
    {"name": "topk", "ratio": 1.0},
    {"name": "topk", "k": 2, "values": "float16"},
    {"name": "qtopk", "k": 6, "inner": "float16", "scope": "segment"},
    {"name": "qtopk", "ratio": 0.2, "inner": {"name": "qsgd", "levels": 1}},
    {"name": "sparse", "variance": 1.0},
    {"name": "sparse", "density": 1.0},
    {"name": "dataq_gradient", "m": 2},
    {"name": "dataq_gradient", "m": 65536},
    {"name": "error_feedback", "inner": "dataq_gradient"},
    {"name": "ecq", "nmse": 1e-6},
    {"name": "ecq", "nmse": 0.7},
    {"name": "ecq", "bytes": 20},
    {"name": "ecq", "bits_per_element": 2.5},
    {"name": "ecq", "dither": True},
    {"name": "ecq", "dither": True, "nmse": 1e-6},
    {"name": "ecq", "dither": True, "bytes": 300},
    {"name": "error_feedback", "inner": {"name": "ecq", "bytes": 20}},
    {"name": "qcs", "q": 0.5},
    {"name": "qcs", "q": 7.5, "order": 64, "scale": "bfloat16"},
    {"name": "qcs", "order": 12, "k": 5, "q": 2},
    {"name": "qcs", "order": "auto", "k_over_n": 0.5, "estimator": "mmse"},
    {"name": "qcs", "order": 16, "k": 1},
    {"name": "qcs", "entropy": True},
    {"name": "error_feedback", "inner": {"name": "qcs", "k_over_n": 0.5}},
    {"name": "terngrad", "scope": "whole"},
    {"name": "terngrad", "scope": 3, "clip": 2.5},
    {"name": "sign", "scope": 5},
    {"name": "sign", "aggregate": "vote"},
    {"name": "qsgd", "levels": 300, "scope": "segment", "entropy": True},
    {"name": "qsgd", "bits": 2, "scope": 7, "entropy": True},
    {"name": "terngrad", "entropy": True},
    {"name": "sign", "scope": "segment", "entropy": True},
    {"name": "topk", "ratio": 0.2, "entropy": True},
    {"name": "sparse", "entropy": True},
    {"name": "uniform", "bits": 2.5, "entropy": True},
    {"name": "uniform", "bits": 2.5},
    {"name": "uniform", "levels": 7, "range": 1e31},
    {"name": "uniform", "levels": 1 << 31},
    {"name": "qsgd", "bits": 2},
    {"name": "qsgd", "bits": 3, "scope": "segment"},
    {"name": "qsgd", "bits": 8, "norm": "l2", "scope": 5},
    {"name": "qsgd", "bits": 16},
    {"name": "qsgd", "levels": 1, "scope": "segment"},
    {"name": "qsgd", "levels": 65536, "norm": "l2"},
]
VOTE = registry.create("codec", {"name": "sign", "aggregate": "vote"})  # decodes to ±1 whatever x is

every_codec = pytest.mark.parametrize(
    "codec", [registry.create("codec", c) for c in CODECS], ids=map(str, CODECS)
)


def takes(codec: Codec, spec: Spec) -> bool:
    try:
        codec.check(spec)
    except CodecError:
        return False
    return True


def dtype_of(codec: Codec) -> Any:
    return "float32" if takes(codec, Spec(1)) else "float64"


def spec_of(n: int, codec: Codec) -> Spec:
    spec = Spec(n, dtype_of(codec), (n // 3, n // 2, n) if n > 5 else ())
    if not takes(codec, spec):
        pytest.skip(f"{codec.name} does not code {n} numbers")
    return spec


def given(values: Any, codec: Codec) -> np.ndarray:
    return np.asarray(values, np.float32).astype(dtype_of(codec))


def vector(n: int, sensor: int = 0) -> np.ndarray:
    return rng.uniform(Key(99, sensor=sensor), n) * np.float32(2) - np.float32(1)


def slack(codec: Codec) -> float:
    """How far beyond ‖x‖ one decoded number may lie: mixing spreads the error of one over all."""
    return 3.0 if "qcs" in codec.identity else 1 + 1e-6


def norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x.astype(float)))


def through(codec: Codec, x: np.ndarray, key: Key = KEY) -> np.ndarray:
    spec = spec_of(x.size, codec)
    payload, _ = codec.encode(x, spec, key, codec.init(spec))
    return codec.decode(payload, spec, key)


@every_codec
@pytest.mark.parametrize("n", SIZES)
def test_round_trip(codec: Codec, n: int) -> None:
    x = given(vector(n), codec)
    y = through(codec, x)
    assert y.dtype == x.dtype
    assert y.shape == (n,)
    if codec == VOTE:
        return
    # a level is at most the norm wide (s = 1, l2)
    if getattr(codec, "range", None) is None:  # or its range, where that is given
        assert (np.abs(y - x) <= norm(x) * slack(codec)).all()
    # qcs mixes coordinates, and what a subtracted dither leaves has either sign
    if codec.variance_bound(spec_of(n, codec)) is not None and codec.name not in ("qcs", "ecq"):
        assert (y * x >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names("codec"))
def test_ten_million_numbers(name: str) -> None:
    codec = registry.create("codec", {"name": name, **NEEDS.get(name, {})})
    n = 10_000_000
    spec = spec_of(n, codec)
    x = given(vector(n), codec)
    payload, _ = codec.encode(x, spec, KEY, codec.init(spec))
    y = codec.decode(payload, spec, KEY)
    assert y.shape == (n,)
    assert len(payload) <= x.nbytes + 64
    assert 0 < norm(y) < 3 * norm(x)


@every_codec
def test_payloads_are_a_function_of_their_inputs(codec: Codec) -> None:
    spec, x = spec_of(300, codec), given(vector(300), codec)
    before = x.copy()
    first, _ = codec.encode(x, spec, KEY, codec.init(spec))
    again, _ = codec.encode(x, spec, replace(KEY), codec.init(spec))
    strided = np.repeat(x, 2)[::2]
    assert first == again == codec.encode(strided, spec, KEY, codec.init(spec))[0]
    assert np.array_equal(x, before)
    assert first != codec.encode(x, spec, KEY.fold(round=4), codec.init(spec))[0]


@every_codec
@pytest.mark.parametrize(
    "values",
    [[0.0] * 9, [-0.0] * 9, [0.0, -0.0, 1.0], [1e-45], [-1e-45, 1e-40, 3e-39], [1e-45, 1.0], [1e30, -1e-30]],
)
def test_zeros_and_denormals(codec: Codec, values: list[float]) -> None:
    x = given(values, codec)
    if "float16" in codec.identity and "bfloat16" not in codec.identity and norm(x) > 65504:
        with pytest.raises(CodecError, match=rf"^{codec.name}: .*x\[0\] = .* rounds to infinity"):
            through(codec, x)
        return
    y = through(codec, x)
    if codec == VOTE or getattr(codec, "range", None) is not None:
        return
    # where the scale is denormal so is the step, and rounding it may double it
    bound = norm(x) * (2 if norm(x) < 1e-37 else slack(codec))
    assert (np.abs(y.astype(float) - x) <= bound).all()
    if not x.any():
        assert not y.any()


@every_codec
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(codec: Codec, value: float) -> None:
    x = given(vector(9), codec)
    x[[6, 8]] = value
    with pytest.raises(CodecError, match=rf"^{codec.name}: x\[6\] = {value}"):
        codec.encode(x, spec_of(9, codec), KEY, codec.init(spec_of(9, codec)))


@every_codec
@pytest.mark.parametrize("shape", [(8,), (10,), (3, 3)])
def test_wrong_shapes_are_refused(codec: Codec, shape: tuple[int, ...]) -> None:
    spec, n = spec_of(9, codec), int(np.prod(shape))
    other = {"float32": np.float64, "float64": np.float32}[spec.dtype]
    for x in (given(vector(n), codec).reshape(shape), vector(9).astype(other)):
        with pytest.raises(CodecError, match=rf"^{codec.name}: got .*, expected {spec.dtype}\[9\]"):
            codec.encode(x, spec, KEY, codec.init(spec))


@every_codec
def test_batches_equal_single_calls(codec: Codec) -> None:
    spec, keys = spec_of(70, codec), [KEY.fold(sensor=i) for i in range(5)]
    x = np.stack([given(vector(70, i), codec) for i in range(5)])
    one = [codec.encode(row, spec, key, codec.init(spec))[0] for row, key in zip(x, keys, strict=True)]
    states = {k: np.stack([v] * 5) for k, v in codec.init(spec).items()}
    assert codec.encode_batch(x, spec, keys, states)[0] == one
    assert codec.encode_batch(x[:0], spec, []) == ([], {})


@every_codec
def test_add_decoded_equals_single_decodes(codec: Codec) -> None:
    spec, keys = spec_of(70, codec), [KEY.fold(sensor=i) for i in range(4)]
    payloads = [
        codec.encode(given(vector(70, i), codec), spec, k, codec.init(spec))[0] for i, k in enumerate(keys)
    ]
    weights, expected = [1.0, 2.5, 3.0, 0.25], np.ones(70, spec.dtype)
    for i in (0, 2, 3):
        expected += codec.decode(payloads[i], spec, keys[i]) * np.asarray(weights[i], spec.dtype)
    payloads[1] = payloads[1][:-1]
    out = np.ones(70, spec.dtype)
    refused = codec.add_decoded(out, payloads, spec, keys, weights)
    assert np.array_equal(out, expected)
    assert list(refused) == [1]
    assert isinstance(refused[1], CodecError)
    untouched = np.ones(70, spec.dtype)
    assert list(codec.add_decoded(untouched, payloads[1:2], spec, keys[1:2], [9.0])) == [0]
    assert np.array_equal(untouched, np.ones(70))


@every_codec
def test_damaged_payloads_are_refused(codec: Codec) -> None:
    spec = spec_of(9, codec)
    payload, _ = codec.encode(given(vector(9), codec), spec, KEY, codec.init(spec))
    for bit in range(8 * len(payload)):
        bad = bytearray(payload)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            codec.decode(bytes(bad), spec, KEY)
    for bad in [payload[:size] for size in range(len(payload))] + [payload + b"\0"]:
        with pytest.raises(CodecError):
            codec.decode(bad, spec, KEY)


@every_codec
def test_payloads_of_another_context_are_refused(codec: Codec) -> None:
    spec = spec_of(9, codec)
    payload, _ = codec.encode(given(vector(9), codec), spec, KEY, codec.init(spec))
    others = [
        KEY.fold(round=4),
        KEY.fold(sensor=5),
        KEY.fold(part=1),
        KEY.fold(purpose=Purpose.MODEL),
        KEY.fold(direction=Direction.DOWN),
        replace(KEY, run=13),
    ]
    for key in others:
        with pytest.raises(CodecError):
            codec.decode(payload, spec, key)
    for other in (Spec(9, spec.dtype), spec_of(10, codec)):
        with pytest.raises(CodecError, match="checksum differs"):
            codec.decode(payload, other, KEY)
    for config in CODECS:
        reader = registry.create("codec", config)
        if reader.identity != codec.identity and takes(reader, spec):
            with pytest.raises(CodecError, match="checksum differs"):
                reader.decode(payload, spec, KEY)


@every_codec
def test_unknown_knobs_are_refused(codec: Codec) -> None:
    with pytest.raises(CodecError, match=rf"{codec.name}: unknown knobs \['nonsense'\]"):
        codec.encode(given(vector(9), codec), spec_of(9, codec), KEY, knobs={"nonsense": 1})


@every_codec
def test_hostile_bodies_are_refused_or_finite(codec: Codec) -> None:
    spec = spec_of(9, codec)
    true_size = len(
        wire.unframe(
            codec.encode(given(vector(9), codec), spec, KEY, codec.init(spec))[0],
            codec.context(spec, KEY, NO_KNOBS),
        )
    )
    for trial in range(300):
        key = KEY.fold(round=trial)
        size = true_size if trial % 3 else trial // 3
        body = bytearray((rng.uint32(key, size) & 0xFF).astype(np.uint8).tobytes())
        for at in range(3, min(len(body), 4 * len(spec.segments)), 4):
            body[at] &= 0x3F  # most scales positive and below 2, so that codes are read
        payload = wire.frame(bytes(body), codec.context(spec, key, NO_KNOBS))
        try:
            y = codec.decode(payload, spec, key)
        except CodecError:
            continue
        assert y.shape == (9,)
        assert np.isfinite(y).all()
