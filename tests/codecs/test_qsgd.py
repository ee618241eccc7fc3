from __future__ import annotations

import numpy as np
import pytest

from fedquant.codecs.base import Spec
from fedquant.codecs.groups import groups as cut
from fedquant.codecs.qsgd import QSGD
from fedquant.errors import CodecError
from fedquant.kernels import pack, rng
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE

KEY = Key(21)


def vector(n: int) -> np.ndarray:
    return rng.uniform(Key(5), n) * np.float32(2) - np.float32(1)


@pytest.mark.parametrize("codec", [QSGD(bits=2), QSGD(bits=4), QSGD(levels=5, norm="l2"), QSGD(3, scope=20)])
def test_the_mean_over_keys_is_the_vector(codec: QSGD) -> None:
    n, spec, x = 600, Spec(40), vector(40)
    total = np.zeros(40)
    for i in range(n):
        key = KEY.fold(sensor=i)
        total += codec.decode(codec.encode(x, spec, key)[0], spec, key)
    s, _ = codec.positive_levels({})
    scale = np.abs(x).max() if codec.norm == "max" else np.linalg.norm(x)
    # a number sits between two levels: sd at most half a level; 5 sigma of the mean of n keys
    assert np.abs(total / n - x).max() < 5 * scale / s / 2 / np.sqrt(n)


@pytest.mark.parametrize("norm", ["max", "l2"])
@pytest.mark.parametrize("bits", range(2, 17))
def test_errors_stay_within_one_level(bits: int, norm: str) -> None:
    codec, spec, x = QSGD(bits=bits, norm=norm), Spec(1000), vector(1000)
    y = codec.decode(codec.encode(x, spec, KEY)[0], spec, KEY)
    scale = float(np.abs(x).max() if norm == "max" else np.linalg.norm(x.astype(float)))
    s = 2 ** (bits - 1) - 1
    assert np.abs(y - x).max() <= scale / s + scale * 2.0**-21  # and float32 roundings
    assert len(np.unique(y)) <= 2 * s + 1


@pytest.mark.parametrize(
    ("codec", "n", "body"),
    [
        (QSGD(bits=2), 1000, 4 + 250),
        (QSGD(bits=4), 1001, 4 + 501),
        (QSGD(bits=8), 1000, 4 + 1000),
        (QSGD(bits=3), 1000, 4 + pack.radix_size(1000, 7)),
        (QSGD(levels=1), 1000, 4 + pack.radix_size(1000, 3)),
        (QSGD(bits=4, scope=100), 1000, 40 + 500),
    ],
)
def test_sizes(codec: QSGD, n: int, body: int) -> None:
    assert len(codec.encode(vector(n), Spec(n), KEY)[0]) == HEADER_SIZE + body
    assert len(codec.encode(vector(n) * np.float32(0), Spec(n), KEY)[0]) < HEADER_SIZE + 41


@pytest.mark.parametrize(
    ("knobs", "same"),
    [
        ({"bits": 2}, QSGD(bits=2)),
        ({"bits": 7}, QSGD(bits=7)),
        ({"levels": 5}, QSGD(levels=5)),
        ({"levels": 5, "bits": 2}, QSGD(levels=5)),
    ],
)
@pytest.mark.parametrize("base", [QSGD(), QSGD(levels=3), QSGD(bits=16)])
def test_knobs_override_the_configuration(base: QSGD, knobs: dict[str, int], same: QSGD) -> None:
    spec, x = Spec(300), vector(300)
    payload, _ = base.encode(x, spec, KEY, knobs=knobs)
    expected, _ = same.encode(x, spec, KEY)
    assert payload[HEADER_SIZE:] == expected[HEADER_SIZE:]
    assert np.array_equal(base.decode(payload, spec, KEY, knobs), same.decode(expected, spec, KEY))
    for other in ({}, {"bits": 9}):
        with pytest.raises(CodecError, match="checksum differs"):
            base.decode(payload, spec, KEY, other)


@pytest.mark.parametrize(
    "knobs", [{"bits": 1}, {"bits": 17}, {"levels": 0}, {"levels": 65537}, {"bits": b"4"}, {"levels": b""}]
)
def test_bad_knobs_are_refused(knobs: dict[str, int | bytes]) -> None:
    (name,) = knobs
    with pytest.raises(CodecError, match=rf"qsgd: knob {name}=.* is not an integer in"):
        QSGD().encode(vector(3), Spec(3), KEY, knobs=knobs)


@pytest.mark.parametrize(
    ("scope", "groups"),
    [
        ("whole", [(0, 10)]),
        ("segment", [(0, 3), (3, 10)]),
        (4, [(0, 4), (4, 8), (8, 10)]),
        (5, [(0, 5), (5, 10)]),
        (99, [(0, 10)]),
    ],
)
def test_scopes(scope: str | int, groups: list[tuple[int, int]]) -> None:
    codec, spec = QSGD(bits=2, scope=scope), Spec(10, segments=(3, 10))
    assert list(cut(spec, codec.scope)) == groups
    x = np.repeat(np.float32([1, 100, 0, 7]), [3, 1, 4, 2])
    y = codec.decode(codec.encode(x, spec, KEY)[0], spec, KEY)
    for start, stop in groups:
        assert set(np.abs(y[start:stop]).tolist()) <= {0.0, float(x[start:stop].max())}
        top = int(x[start:stop].argmax()) + start
        assert y[top] == x[top]
    assert cut(Spec(0), codec.scope) == ()


def test_a_group_of_zeros_takes_its_scale_alone() -> None:
    x = np.repeat(np.float32([0, 1]), 100)
    codec, spec = QSGD(bits=8, scope=100), Spec(200)
    assert len(codec.encode(x, spec, KEY)[0]) == HEADER_SIZE + 8 + 100


def test_float64_is_refused() -> None:
    with pytest.raises(CodecError, match="qsgd: codes float32, not float64"):
        QSGD().encode(np.zeros(3), Spec(3, "float64"), KEY)
