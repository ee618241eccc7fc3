from __future__ import annotations

import numpy as np
import pytest

from fedquant import registry
from fedquant.codecs.base import Spec
from fedquant.codecs.groups import Scope
from fedquant.codecs.groups import groups as cut
from fedquant.codecs.qsgd import QSGD, each_segment, numbers
from fedquant.errors import CodecError, ConfigError
from fedquant.kernels import pack, rng
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE, Knobs, frame

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
    (s, _), *_ = codec.finenesses(spec, {})
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


# ---- a fineness for each segment

LAYERS = Spec(1000, segments=(3, 300, 301, 1000))
TOLD = [("bits", [2, 7, 16, 4]), ("bits", [8, 2, 4, 8]), ("levels", [1, 300, 65535, 5]), ("bits", [5] * 4)]
each_knob = pytest.mark.parametrize(("name", "values"), TOLD, ids=str)


@each_knob
@pytest.mark.parametrize("norm", ["max", "l2"])
def test_each_segment_has_its_own_levels(name: str, values: list[int], norm: str) -> None:
    """The body is the scales and then the codes of each segment as if it were sent alone, at its place."""
    codec, x = QSGD(scope="segment", norm=norm), vector(1000)
    knobs = each_segment(name, values)
    payload, _ = codec.encode(x, LAYERS, KEY, knobs=knobs)
    decoded = codec.decode(payload, LAYERS, KEY, knobs)
    bodies = [codec.encode(x, LAYERS, KEY, knobs={name: value})[0][HEADER_SIZE:] for value in values]
    expected, at = payload[HEADER_SIZE : HEADER_SIZE + 16], [16] * 4
    for i, (start, stop) in enumerate(cut(LAYERS, "segment")):
        n, whole = stop - start, {name: values[i]}
        assert bodies[i][:16] == expected[:16]
        sizes = [codec.limit(Spec(b - a), whole) - 4 for a, b in cut(LAYERS, "segment")]
        at[i] += sum(sizes[:i])
        expected += bodies[i][at[i] : at[i] + sizes[i]]
        same = codec.decode(codec.encode(x, LAYERS, KEY, knobs=whole)[0], LAYERS, KEY, whole)
        assert np.array_equal(decoded[start:stop], same[start:stop])
        s = values[i] if name == "levels" else 2 ** (values[i] - 1) - 1
        scale = float(np.abs(x[start:stop]).max() if norm == "max" else np.linalg.norm(x[start:stop]))
        assert np.abs(decoded[start:stop] - x[start:stop]).max() <= scale / s + scale * 2.0**-21
        assert len(np.unique(decoded[start:stop])) <= min(n, 2 * s + 1)
    assert payload[HEADER_SIZE:] == expected
    assert len(payload) == HEADER_SIZE + codec.limit(LAYERS, knobs)


@each_knob
def test_entropy_coded_segments_decode_to_the_same(name: str, values: list[int]) -> None:
    plain, coded, x = QSGD(scope="segment"), QSGD(scope="segment", entropy=True), vector(1000) ** 9
    x[300] = 0
    knobs = each_segment(name, values)
    small = coded.encode(x, LAYERS, KEY, knobs=knobs)[0]
    large = plain.encode(x, LAYERS, KEY, knobs=knobs)[0]
    assert np.array_equal(coded.decode(small, LAYERS, KEY, knobs), plain.decode(large, LAYERS, KEY, knobs))
    assert len(small) < len(large)
    noise = vector(1000)
    assert len(coded.encode(noise, LAYERS, KEY, knobs=knobs)[0]) <= HEADER_SIZE + coded.limit(LAYERS, knobs)


@pytest.mark.parametrize("entropy", [False, True])
def test_the_same_for_all_segments_is_one_number(entropy: bool) -> None:
    codec, x = QSGD(scope="segment", entropy=entropy), vector(1000)
    for name, value in (("bits", 4), ("bits", 3), ("levels", 9)):
        bodies = [
            codec.encode(x, LAYERS, KEY, knobs=knobs)[0][HEADER_SIZE:]
            for knobs in ({name: value}, each_segment(name, [value] * 4))
        ]
        assert bodies[0] == bodies[1]


@each_knob
def test_sums_of_segments_are_those_of_decoded_payloads(name: str, values: list[int]) -> None:
    codec, knobs, keys = (
        QSGD(scope="segment"),
        each_segment(name, values),
        [KEY.fold(sensor=i) for i in range(5)],
    )
    payloads = [codec.encode(vector(1000), LAYERS, key, knobs=knobs)[0] for key in keys]
    payloads[2] = payloads[2][:-1]
    total, expected = np.ones(1000, np.float32), np.ones(1000, np.float32)
    refused = codec.add_decoded(total, payloads, LAYERS, keys, [0.5, 2, 1, 3, 1], knobs)
    assert list(refused) == [2]
    for i, weight in ((0, 0.5), (1, 2), (3, 3), (4, 1)):
        expected += codec.decode(payloads[i], LAYERS, keys[i], knobs) * np.float32(weight)
    assert np.array_equal(total, expected)


@pytest.mark.parametrize(
    "knobs",
    [
        {"bits": b"\x04\x04\x04"},
        {"bits": b"\x04\x04\x04\x04\x04"},
        {"bits": b""},
        {"bits": b"\x04\x04\x01\x04"},
        {"bits": b"\x04\x11\x04\x04"},
        {"levels": b"\x01\x00\x01\x00\x01\x00\x01"},
        {"levels": b"\x01\x00\x01\x00\x00\x00\x01\x00"},
        {"bits": b"\x04\x04\x04\x04", "levels": b"\x01"},
    ],
    ids=str,
)
def test_knobs_that_do_not_fit_the_segments_are_refused(knobs: dict[str, bytes]) -> None:
    payload = QSGD(scope="segment").encode(vector(1000), LAYERS, KEY)[0]
    for call in (
        lambda: QSGD(scope="segment").encode(vector(1000), LAYERS, KEY, knobs=knobs),
        lambda: QSGD(scope="segment").decode(reframed(payload, knobs), LAYERS, KEY, knobs),
    ):
        with pytest.raises(CodecError, match=r"is not one integer in \[\d, \d+\] for each of 4 segments"):
            call()
    scopes: tuple[Scope, ...] = ("whole", 250)  # groups, but not segments
    for scope in scopes:
        with pytest.raises(CodecError, match=r"knob .* is not an integer in"):
            QSGD(scope=scope).encode(vector(1000), LAYERS, KEY, knobs=knobs)


def reframed(payload: bytes, knobs: Knobs) -> bytes:
    """The body with the checksum of these knobs."""
    return frame(payload[HEADER_SIZE:], QSGD(scope="segment").context(LAYERS, KEY, knobs))


@pytest.mark.parametrize("entropy", [False, True])
def test_forged_bodies_are_refused(entropy: bool) -> None:
    """A checksum that holds, of a body that is too short, too long, or of other knobs."""
    codec, knobs = QSGD(scope="segment", entropy=entropy), each_segment("bits", [2, 7, 16, 4])
    body = codec.encode(vector(1000), LAYERS, KEY, knobs=knobs)[0][HEADER_SIZE:]

    def read(data: bytes, told: Knobs = knobs) -> None:
        codec.decode(frame(data, codec.context(LAYERS, KEY, told)), LAYERS, KEY, told)

    read(body)
    forged = [body[:n] for n in (0, 15, 16, 17, 20, len(body) // 2, len(body) - 1)]
    forged += [body + b"\x00", body[:16] + b"\xff" * 5 + body[21:]]
    if entropy:
        forged += [body[:16] + b"\xff\xff\xff\x7f" + body[17:], body[:16] + b"\x80\x00" + body[17:]]
    for data in forged:
        with pytest.raises(CodecError):
            read(data)
    for told in (
        each_segment("bits", [2, 16, 7, 4]),
        {"bits": 4},
        {"levels": 1},
        each_segment("levels", [1] * 4),
    ):
        with pytest.raises(CodecError):
            read(body, told)
        with pytest.raises(CodecError, match="checksum differs"):
            codec.decode(frame(body, codec.context(LAYERS, KEY, knobs)), LAYERS, KEY, told)


def test_the_variance_bound_is_that_of_the_worst_segment() -> None:
    codec = QSGD(scope="segment")
    single = [codec.variance_bound(Spec(b - a), {"bits": 4}) for a, b in cut(LAYERS, "segment")]
    assert codec.variance_bound(LAYERS, each_segment("bits", [4, 4, 4, 4])) == max(single)
    coarse = codec.variance_bound(Spec(297), {"bits": 2})
    assert coarse is not None
    assert codec.variance_bound(LAYERS, each_segment("bits", [4, 2, 4, 8])) == coarse > max(single)


def test_the_knob_says_each_number() -> None:
    for name, values in (("bits", [2, 16, 9]), ("levels", [1, 65535, 300])):
        (told,) = each_segment(name, values).values()
        assert isinstance(told, bytes)
        assert numbers(name, told) == values


@pytest.mark.parametrize("bits", [2, 8])
def test_bits_beside_levels_are_refused(bits: int) -> None:
    """Unless they are the default, which a resolved scenario says of every codec."""
    with pytest.raises(ConfigError, match=f"qsgd: levels=1 takes the place of bits={bits}; remove one"):
        registry.create("codec", {"name": "qsgd", "bits": bits, "levels": 1})
    codec = registry.create("codec", {"name": "qsgd", "levels": 1})
    assert registry.create("codec", registry.resolved(codec)) == codec
