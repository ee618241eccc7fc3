from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fedquant import registry, wire
from fedquant.codecs.base import Spec
from fedquant.codecs.error_feedback import ErrorFeedback
from fedquant.codecs.floats import BFloat16, Float16
from fedquant.codecs.indices import encode_indices
from fedquant.codecs.topk import TopK
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.kernels.reference import topk
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE, NO_KNOBS

KEY = Key(31)


def vector(n: int, sensor: int = 0) -> np.ndarray:
    return rng.uniform(Key(6, sensor=sensor), n) - np.float32(0.5)


def through(codec: TopK, x: np.ndarray, spec: Spec | None = None) -> np.ndarray:
    spec = spec or Spec(x.size)
    return codec.decode(codec.encode(x, spec, KEY)[0], spec, KEY)


def read(codec: TopK, body: bytes, spec: Spec) -> np.ndarray:
    return codec.decode(wire.frame(body, codec.context(spec, KEY, NO_KNOBS)), spec, KEY)


@pytest.mark.parametrize("n", [1, 2, 9, 300, 2048, 2049, 5000])
@pytest.mark.parametrize("fields", [{}, {"ratio": 0.1}, {"ratio": 1}, {"k": 1}, {"k": 40}, {"k": 10**9}])
def test_the_largest_arrive_as_they_are(n: int, fields: dict[str, Any]) -> None:
    x, codec = vector(n), TopK(**fields)
    y = through(codec, x)
    kept = topk.largest(x, codec.kept(n))
    assert np.array_equal(y[kept], x[kept])
    assert np.count_nonzero(y) == kept.size


@pytest.mark.parametrize(
    ("codec", "n", "k"),
    [
        (TopK(), 1, 1),
        (TopK(), 100, 1),
        (TopK(), 101, 2),
        (TopK(), 300, 3),
        (TopK(ratio=0.07), 100, 7),  # 0.07·100 is above 7 in floats
        (TopK(ratio=0.29), 100, 29),  # and 0.29·100 below 29
        (TopK(ratio=1e-9), 10**9, 1),
        (TopK(ratio=1e-9), 10**9 + 1, 2),
        (TopK(ratio=1), 17, 17),
        (TopK(k=5), 4, 4),
        (TopK(k=5), 6, 5),
    ],
)
def test_how_many_are_kept(codec: TopK, n: int, k: int) -> None:
    assert codec.kept(n) == k


@pytest.mark.parametrize(
    ("scope", "kept"), [("whole", [6, 7]), ("segment", [0, 1, 6, 7]), (3, [0, 1, 3, 4, 6, 7, 9])]
)
def test_each_group_keeps_its_own(scope: Any, kept: list[int]) -> None:
    x = np.array([3, 2, 1, 5, 5, 5, 9, -9, 0, 4], np.float32)
    spec = Spec(10, segments=(3, 10))
    y = through(TopK(k=2, scope=scope), x, spec)
    assert y.tolist() == [v if i in kept else 0 for i, v in enumerate(x.tolist())]


def test_a_group_that_keeps_too_many_is_refused() -> None:
    codec, spec = TopK(k=1, scope=3), Spec(6)
    good = encode_indices(np.array([0, 5]), 6) + np.float32([1, 2]).tobytes()
    assert read(codec, good, spec).tolist() == [1, 0, 0, 0, 0, 2]
    for pair in ([0, 2], [3, 4]):
        with pytest.raises(CodecError, match="topk: a group does not keep as many numbers as it must"):
            read(codec, encode_indices(np.array(pair), 6) + good[1:], spec)


@pytest.mark.parametrize("values", ["float16", "bfloat16"])
def test_half_values_are_rounded_as_the_plain_codecs_round(values: str) -> None:
    x, plain = vector(400), {"float16": Float16(), "bfloat16": BFloat16()}[values]
    codec = TopK(ratio=0.1, values=values)
    payload, _ = codec.encode(x, Spec(400), KEY)
    whole, _ = TopK(ratio=0.1).encode(x, Spec(400), KEY)
    assert len(whole) - len(payload) == 2 * 40
    kept = topk.largest(x, 40)
    y = codec.decode(payload, Spec(400), KEY)
    assert np.array_equal(y[kept], plain.decode(plain.encode(x[kept], Spec(40), KEY)[0], Spec(40), KEY))


def test_values_beyond_float16_are_refused() -> None:
    x = np.array([1, 1e6, 2], np.float32)
    with pytest.raises(CodecError, match=r"topk: of the values kept, float16: .* use bfloat16 or float32"):
        through(TopK(k=2, values="float16"), x)
    assert through(TopK(k=2, values="bfloat16"), x)[1] == pytest.approx(1e6, rel=2**-8)


def test_golden_bytes() -> None:
    x = np.array([0, -3, 1, 2], np.float32)
    # {1, 3} comes after {0,1} {0,2} {1,2} {0,3}
    for values, coded in (
        ("float32", struct.pack("<ff", -3, 2)),
        ("float16", b"\x00\xc2\x00\x40"),
        ("bfloat16", b"\x40\xc0\x00\x40"),
    ):
        payload, _ = TopK(ratio=0.5, values=values).encode(x, Spec(4), KEY)
        assert payload[HEADER_SIZE:] == b"\x04" + coded


@pytest.mark.parametrize("values", [[], [0.0], [-0.0] * 5, [0.0, -1e-45, -0.0], [3.4028235e38, -1]])
def test_extremes(values: list[float]) -> None:
    x = np.array(values, np.float32)
    assert np.array_equal(through(TopK(ratio=1), x), x)
    y = through(TopK(k=1), x)
    assert np.count_nonzero(y) <= 1
    assert not x.any() or np.abs(y).max() == np.abs(x).max()


def test_what_was_decoded_is_known_before_decoding() -> None:
    x, spec = vector(3000), Spec(3000, segments=(1000, 3000))
    for codec in (TopK(), TopK(values="bfloat16", scope="segment"), TopK(k=3, values="float16", scope=7)):
        body = codec._encode_body(x, spec, KEY, {}, {})
        assert np.array_equal(body.decoded(), codec._decode_body(body.data, spec, KEY, {}))


def test_adding_touches_only_what_was_kept() -> None:
    codec, spec = TopK(k=2), Spec(50)
    payloads = [codec.encode(vector(50, i), spec, KEY)[0] for i in range(3)]
    bad = wire.frame(
        encode_indices(np.array([3, 4]), 50) + np.float32([1, np.nan]).tobytes(),
        codec.context(spec, KEY, NO_KNOBS),
    )
    out = np.full(50, 7, np.float32)
    expected = out.copy()
    for payload, weight in zip(payloads, (1.0, 0.5, -2.0), strict=True):
        expected += codec.decode(payload, spec, KEY) * np.float32(weight)
    weights = [1.0, 0.5, 9.0, -2.0]
    refused = codec.add_decoded(out, [*payloads[:2], bad, payloads[2]], spec, [KEY] * 4, weights)
    assert np.array_equal(out, expected)
    assert list(refused) == [2]
    assert "not finite" in str(refused[2])


def test_bad_bodies_are_refused_or_finite() -> None:
    codec, spec = TopK(k=3, values="float16"), Spec(60)
    payload, _ = codec.encode(vector(60), spec, KEY)
    body = payload[HEADER_SIZE:]
    for bad in (b"", body[:-1], body + b"\0", body[1:]):
        with pytest.raises(CodecError):
            read(codec, bad, spec)
    for bit in range(8 * len(body)):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            y = read(codec, bytes(changed), spec)
        except CodecError:
            continue
        assert np.isfinite(y).all()
        assert np.count_nonzero(y) <= 3


def test_configuration() -> None:
    assert TopK() == TopK(ratio=0.01)
    assert TopK(ratio=1).identity == TopK(ratio=1.0).identity != TopK().identity
    for codec in (TopK(), TopK(k=3, scope=9), TopK(ratio=0.5, values="float16")):
        for config in (registry.config(codec), registry.resolved(codec)):
            assert config.pop("name") == "topk"
            assert TypeAdapter(TopK).validate_python(config) == codec
    with pytest.raises(ValueError, match=r"topk: ratio=0.5 and k=3 are both given; give one"):
        TopK(ratio=0.5, k=3)
    for fields in ({"ratio": 0}, {"ratio": 1.1}, {"k": 0}, {"values": "float8"}, {"ratio": 0.1, "k": 1}):
        with pytest.raises(ValidationError):
            TypeAdapter(TopK).validate_python(fields)


def test_with_error_feedback_everything_arrives_in_the_end() -> None:
    codec, spec, x = ErrorFeedback(TopK(k=5)), Spec(50), vector(50)
    state, total = codec.init(spec), np.zeros(50)
    for t in range(200):
        payload, state = codec.encode(x, spec, KEY.fold(round=t), state)
        total += codec.decode(payload, spec, KEY.fold(round=t))
    # What is owed stays below √(1−δ)/(1−√(1−δ))·‖x‖ ≤ (2/δ)·‖x‖ with δ = k/n, the contraction of top-k.
    assert np.linalg.norm(total - 200 * x) <= 20 * np.linalg.norm(x)
    assert TopK().variance_bound(spec) is None
