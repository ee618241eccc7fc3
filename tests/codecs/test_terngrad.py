from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fedquant.codecs.base import Spec
from fedquant.codecs.qsgd import QSGD
from fedquant.codecs.terngrad import TernGrad
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE, NO_KNOBS, frame

KEY = Key(21)


def vector(n: int) -> np.ndarray:
    return rng.uniform(Key(5), n) * np.float32(2) - np.float32(1)


def through(codec: TernGrad, x: np.ndarray, spec: Spec, key: Key = KEY) -> np.ndarray:
    return codec.decode(codec.encode(x, spec, key)[0], spec, key)


def test_bytes() -> None:
    # numbers at 0 and ±max are not random; the second group is all zero, so only its scale is sent
    x = np.float32([2, 0, -2, 0, 0, 2, 0, 0])
    body = TernGrad().encode(x, Spec(8, segments=(6, 8)), KEY)[0][HEADER_SIZE:]
    # codes 2 1 0 1 1 | 2: 2·81 + 1·27 + 0·9 + 1·3 + 1 = 193 and 2
    assert body == bytes.fromhex("00000040 00000000") + bytes([193, 2])


@pytest.mark.parametrize(("n", "body"), [(0, 0), (1, 4 + 1), (1000, 4 + 200), (1001, 4 + 201), (320, 4 + 64)])
def test_sizes(n: int, body: int) -> None:
    assert len(TernGrad().encode(vector(n), Spec(n), KEY)[0]) == HEADER_SIZE + body


@pytest.mark.parametrize("scope", ["whole", "segment", 7])
def test_it_is_qsgd_with_one_level(scope: str | int) -> None:
    spec, x = Spec(500, segments=(123, 500)), vector(500)
    body = TernGrad(scope=scope).encode(x, spec, KEY)[0][HEADER_SIZE:]
    assert body == QSGD(levels=1, norm="max", scope=scope).encode(x, spec, KEY)[0][HEADER_SIZE:]


def test_mean_and_variance_over_keys_are_the_formulas() -> None:
    keys, n = 2000, 40
    spec, x = Spec(n), vector(n)
    errors = np.stack([through(TernGrad(), x, spec, KEY.fold(sensor=i)) - x for i in range(keys)])
    a, top = np.abs(x.astype(float)), float(np.abs(x).max())
    variance = a * (top - a)
    # 5 sigma of the mean of `keys` draws (and 2⁻²², the roundings of x/max before it is compared)
    assert (np.abs(errors.mean(axis=0)) <= 5 * np.sqrt(variance / keys) + 2.0**-22).all()
    # an error is (M − |x|)² with probability |x|/M, else x²: this is the variance of that
    p = a / top
    spread = (p * (top - a) ** 4 + (1 - p) * a**4 - variance**2).sum()
    measured = (errors.astype(float) ** 2).sum(axis=1).mean()
    assert abs(measured - variance.sum()) <= 5 * np.sqrt(spread / keys)


@pytest.mark.parametrize("n", [1, 2, 3, 100, 10_000])
def test_the_variance_bound_is_tight(n: int) -> None:
    bound = TernGrad().variance_bound(Spec(n))
    assert bound is not None
    worst = np.full(n, 1 / (1 + np.sqrt(n)))
    worst[0] = 1
    for x in (worst, np.ones(n), vector(n).astype(float), vector(n).astype(float) ** 5):
        a = np.abs(x)
        ratio = (a * (a.max() - a)).sum() / (a**2).sum()
        assert ratio <= bound + 1e-12
        if x is worst:
            assert ratio == pytest.approx(bound, rel=1e-12)


def test_the_variance_bound_is_of_the_largest_group() -> None:
    spec = Spec(125, segments=(25, 125))
    assert TernGrad().variance_bound(spec) == 4.5
    assert TernGrad(scope=25).variance_bound(spec) == 2
    assert TernGrad(clip=2.5).variance_bound(spec) is None
    assert TernGrad().variance_bound(Spec(0)) == 0


def test_clipping_bounds_the_scale() -> None:
    x = np.repeat(np.float32([1, -1, 100]), [50, 49, 1])
    sigma = np.sqrt(np.mean(x.astype(float) ** 2))
    y = through(TernGrad(clip=2.5), x, Spec(100))
    scale = np.float32(2.5 * sigma)
    assert set(np.unique(y).tolist()) <= {0.0, float(scale), -float(scale)}
    assert y[99] == scale
    mild = TernGrad(clip=11.0)  # 11 σ > 100: nothing is clipped
    assert mild.encode(x, Spec(100), KEY) == TernGrad().encode(x, Spec(100), KEY)


@pytest.mark.parametrize("clip", [1e-300, 1e-12, 1e-3, 1e300])
@pytest.mark.parametrize("value", [1e-45, 1.0, 3e38])
def test_extreme_clips_decode(clip: float, value: float) -> None:
    x = np.float32([value, -value, 0, value / 2])
    y = through(TernGrad(clip=clip), x, Spec(4))
    assert (np.abs(y) <= np.abs(x).max()).all()
    assert (y * np.sign(x) >= 0).all()


def test_a_decoder_needs_no_clip() -> None:
    x, spec = vector(100), Spec(100)
    payload, _ = TernGrad(clip=1.0).encode(x, spec, KEY)
    assert payload != TernGrad().encode(x, spec, KEY)[0]
    assert np.array_equal(
        TernGrad().decode(payload, spec, KEY), TernGrad(clip=1.0).decode(payload, spec, KEY)
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("0000c03f", "terngrad: body of 4 bytes, expected 5"),
        ("0000c03f 09", r"radix codes: a group is not below 3\*\*2"),
        ("0000c03f 08 00", "terngrad: body of 6 bytes, expected 5"),
        ("00000000 08", "terngrad: body of 5 bytes, expected 4"),
        ("0000c0", "terngrad: body of 3 bytes, its scales alone take 4"),
        ("0000c07f 08", "terngrad: a scale is negative or not finite"),
        ("0000c0bf 08", "terngrad: a scale is negative or not finite"),
    ],
)
def test_bad_bodies_are_refused(body: str, message: str) -> None:
    context = TernGrad().context(Spec(2), KEY, NO_KNOBS)
    with pytest.raises(CodecError, match=message):
        TernGrad().decode(frame(bytes.fromhex(body), context), Spec(2), KEY)
    good = TernGrad().decode(frame(bytes.fromhex("0000c03f 08"), context), Spec(2), KEY)
    assert good.tolist() == [1.5, 1.5]


@pytest.mark.parametrize("clip", [0, -1, "x", float("inf"), float("nan")])
def test_bad_clips_are_refused(clip: object) -> None:
    with pytest.raises(ValidationError, match="clip"):
        TypeAdapter(TernGrad).validate_python({"clip": clip})
