from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fedquant import registry, wire
from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.error_feedback import ErrorFeedback
from fedquant.codecs.floats import Float16, Float32
from fedquant.codecs.indices import encode_indices
from fedquant.codecs.qsgd import QSGD
from fedquant.codecs.qtopk import QTopK
from fedquant.codecs.sign import Sign
from fedquant.codecs.terngrad import TernGrad
from fedquant.codecs.topk import TopK
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.kernels.reference import topk
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE, NO_KNOBS

KEY = Key(32)
N = 600
SPEC = Spec(N, segments=(100, 350, N))


def vector(n: int = N) -> np.ndarray:
    return rng.uniform(Key(6), n) - np.float32(0.5)


@pytest.mark.parametrize("inner", [Float32(), Float16(), QSGD(bits=2), QSGD(bits=3, scope=7), TernGrad()])
@pytest.mark.parametrize("scope", ["whole", "segment", 40])
def test_the_values_are_those_of_the_inner_codec(inner: Codec, scope: Any) -> None:
    codec, x = QTopK(ratio=0.1, scope=scope, inner=inner), vector()
    payload, state = codec.encode(x, SPEC, KEY)
    values = codec.value_spec(SPEC)
    kept = np.flatnonzero(
        TopK(ratio=0.1, scope=scope).decode(TopK(ratio=0.1, scope=scope).encode(x, SPEC, KEY)[0], SPEC, KEY)
    )
    assert values.size == kept.size
    coded, _ = inner.encode(x[kept], values, KEY)
    assert payload[HEADER_SIZE:] == encode_indices(kept, N) + coded[HEADER_SIZE:]
    y = codec.decode(payload, SPEC, KEY)
    assert np.array_equal(y[kept], inner.decode(coded, values, KEY))
    assert np.count_nonzero(np.delete(y, kept)) == 0
    assert state == {}


def test_the_inner_codec_sees_groups_as_segments() -> None:
    assert QTopK(k=9, scope="segment").value_spec(SPEC) == Spec(27, segments=(9, 18, 27))
    assert QTopK(ratio=0.1, scope="segment").value_spec(SPEC) == Spec(60, segments=(10, 35, 60))
    assert QTopK().value_spec(Spec(0)) == Spec(0)
    x = np.repeat(np.float32([1, 100]), 10)
    codec = QTopK(k=2, scope="segment")  # a scale each, so the small segment survives
    spec = Spec(20, segments=(10, 20))
    y = codec.decode(codec.encode(x, spec, KEY)[0], spec, KEY)
    assert y[[0, 1, 10, 11]].tolist() == [1, 1, 100, 100]


def test_golden_bytes() -> None:
    x = np.array([0, -3, 1, 3], np.float32)
    # The set {1, 3} is the fifth of 6; scale 3; levels −7 and 7 of 7 as codes 0 and 14.
    payload, _ = QTopK(ratio=0.5).encode(x, Spec(4), KEY)
    assert payload[HEADER_SIZE:] == b"\x04" + struct.pack("<f", 3) + b"\xe0"


def test_the_mean_over_keys_is_the_top() -> None:
    n, codec, x = 500, QTopK(k=20), vector()
    kept, total = topk.largest(x, 20), np.zeros(N)
    for i in range(n):
        key = KEY.fold(sensor=i)
        total += codec.decode(codec.encode(x, SPEC, key)[0], SPEC, key)
    expected = np.zeros(N)
    expected[kept] = x[kept]
    # sd at most half a level of max|x|/7; 5 sigma of the mean of n keys
    assert np.abs(total / n - expected).max() < 5 * np.abs(x).max() / 7 / 2 / np.sqrt(n)


def test_what_was_decoded_is_known_before_decoding() -> None:
    for codec in (QTopK(), QTopK(scope="segment", inner=Sign()), QTopK(k=3, scope=9, inner=QSGD(levels=5))):
        body = codec._encode_body(vector(), SPEC, KEY, {}, {})
        assert np.array_equal(body.decoded(), codec._decode_body(body.data, SPEC, KEY, {}))


def test_knobs_reach_the_inner_codec() -> None:
    x = vector()
    fine, _ = QTopK(k=50).encode(x, SPEC, KEY, knobs={"bits": 8})
    same, _ = QTopK(k=50, inner=QSGD(bits=8, scope="segment")).encode(x, SPEC, KEY)
    assert fine[HEADER_SIZE:] == same[HEADER_SIZE:]
    outer = ErrorFeedback(QTopK(k=50))
    outer.encode(x, SPEC, KEY, outer.init(SPEC), {"levels": 3})
    for codec in (QTopK(), QTopK(inner=Float32())):
        with pytest.raises(CodecError, match=r"qtopk: unknown knobs \['nonsense'\]"):
            codec.encode(x, SPEC, KEY, knobs={"nonsense": 1})


def test_codecs_that_cannot_be_inside_are_refused() -> None:
    with pytest.raises(CodecError, match=r"inner error_feedback keeps state.*; wrap qtopk in it instead"):
        QTopK(inner=ErrorFeedback(QSGD())).init(SPEC)
    with pytest.raises(CodecError, match="qtopk: codes float32, not float64"):
        QTopK().init(Spec(3, "float64"))
    with pytest.raises(CodecError, match="qtopk: of the values kept, float16: "):
        QTopK(inner=Float16()).encode(vector() * np.float32(1e6), SPEC, KEY)


def test_votes_stay_votes() -> None:
    codec = QTopK(k=2, inner=Sign(aggregate="vote"))
    assert codec.finish(np.float32([-3, 0, 2]), 5.0).tolist() == [-1, 0, 1]
    assert QTopK().finish(np.float32([-3, 0, 2]), 2.0).tolist() == [-1.5, 0, 1]


@pytest.mark.parametrize("values", [[], [0.0], [-0.0] * 4, [1e-37, 0.0], [3e38, -3e38, 1]])
def test_extremes(values: list[float]) -> None:
    x, spec = np.array(values, np.float32), Spec(len(values))
    codec = QTopK(k=1)
    y = codec.decode(codec.encode(x, spec, KEY)[0], spec, KEY)
    assert np.abs(y - x).max(initial=0) <= np.abs(x).max(initial=0)
    assert not x.any() or np.abs(y).max() == np.abs(x).max()


def test_bad_bodies_are_refused_or_finite() -> None:
    codec, spec = QTopK(k=5), Spec(60)
    body = codec.encode(vector(60), spec, KEY)[0][HEADER_SIZE:]

    def read(data: bytes) -> np.ndarray:
        return codec.decode(wire.frame(data, codec.context(spec, KEY, NO_KNOBS)), spec, KEY)

    for bad in (b"", body[:-1], body + b"\0", body[1:]):
        with pytest.raises(CodecError):
            read(bad)
    for bit in range(8 * len(body)):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            y = read(bytes(changed))
        except CodecError:
            continue
        assert np.isfinite(y).all()
        assert np.count_nonzero(y) <= 5


def test_configuration() -> None:
    codec = TypeAdapter(QTopK).validate_python({"k": 3, "inner": {"name": "qsgd", "bits": 2}})
    assert codec == QTopK(k=3, inner=QSGD(bits=2))
    config = registry.resolved(codec)
    assert config.pop("name") == "qtopk"
    assert TypeAdapter(QTopK).validate_python(config) == codec
    assert QTopK().identity != QTopK(inner=QSGD()).identity
    assert QTopK().variance_bound(SPEC) is None
    for fields in ({"ratio": 0.1, "k": 1}, {"ratio": 2}, {"scope": 0}):
        with pytest.raises(ValidationError):
            TypeAdapter(QTopK).validate_python(fields)
