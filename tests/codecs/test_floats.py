from __future__ import annotations

import numpy as np
import pytest

from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.floats import BFloat16, Float16, Float32
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE, NO_KNOBS, frame

KEY = Key(3)
LARGEST = float(np.finfo(np.float32).max)
every_half = pytest.mark.parametrize("codec", [Float16(), BFloat16()], ids=lambda c: c.name)


def through(codec: Codec, x: np.ndarray) -> np.ndarray:
    spec = Spec(x.size)
    return codec.decode(codec.encode(x, spec, KEY)[0], spec, KEY)


@pytest.mark.parametrize(
    ("codec", "body"),
    [
        (Float32(), "0000803f 000020c0"),
        (Float16(), "003c 00c1"),
        (BFloat16(), "803f 20c0"),
    ],
)
def test_bytes(codec: Codec, body: str) -> None:
    payload, _ = codec.encode(np.float32([1, -2.5]), Spec(2), KEY)
    assert payload[HEADER_SIZE:] == bytes.fromhex(body)


@pytest.mark.parametrize(("codec", "size"), [(Float32(), 4), (Float16(), 2), (BFloat16(), 2)])
@pytest.mark.parametrize("n", [0, 1, 1001])
def test_sizes(codec: Codec, size: int, n: int) -> None:
    payload, _ = codec.encode(np.zeros(n, np.float32), Spec(n), KEY)
    assert len(payload) == HEADER_SIZE + size * n
    for bad in (payload[HEADER_SIZE:] + b"\0", payload[HEADER_SIZE + 1 :] if n else b"\0"):
        with pytest.raises(CodecError, match=f"{codec.name}: body of {len(bad)} bytes, expected {size * n}"):
            codec.decode(frame(bad, codec.context(Spec(n), KEY, NO_KNOBS)), Spec(n), KEY)


@pytest.mark.parametrize(("codec", "precision", "low"), [(Float16(), 11, -24), (BFloat16(), 8, -133)])
def test_rounding_is_to_nearest_even(codec: Codec, precision: int, low: int) -> None:
    step = 2.0 ** (1 - precision)  # above 1
    tiny = 2.0**low  # the least denormal
    x = np.array([1 + step / 2, 1 + 3 * step / 2, 1 + step * 0.51, 1 + step * 0.49, tiny / 2, tiny * 1.5])
    y = np.array([1, 1 + 2 * step, 1 + step, 1, 0, 2 * tiny])
    for sign in (1, -1):
        assert through(codec, np.float32(sign * x)).tolist() == (sign * y).tolist()


@pytest.mark.parametrize(
    ("codec", "half_step", "floor"),
    [(Float16(), 2.0**-11, 2.0**-25), (BFloat16(), 2.0**-8, 2.0**-134)],
    ids=["float16", "bfloat16"],
)
def test_errors_are_at_most_half_a_step(codec: Codec, half_step: float, floor: float) -> None:
    u = rng.uniform(Key(5), 20_000)
    x = (u[:10_000] - np.float32(0.5)) * np.exp2(np.floor(u[10_000:] * 30 - 20)).astype(np.float32)
    errors = np.abs(through(codec, x).astype(float) - x)
    assert (errors <= np.maximum(np.abs(x).astype(float) * half_step, floor)).all()


@every_half
def test_halves_and_signed_zeros_come_back(codec: Codec) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    wide = (
        every.view(np.float16).astype(np.float32)
        if codec.name == "float16"
        else (every.astype(np.uint32) << np.uint32(16)).view(np.float32)
    )
    wide = wide[np.isfinite(wide)]
    assert wide.size > 63_000
    assert np.array_equal(through(codec, wide).view(np.uint32), wide.view(np.uint32))


@pytest.mark.parametrize(
    ("codec", "fits", "overflows", "fix"),
    [
        (Float16(), 65519.9, 65520.0, "use bfloat16 or float32, or scale x down"),
        (BFloat16(), 3.3961e38, LARGEST, "use float32, or scale x down"),
    ],
)
def test_overflow_is_refused(codec: Codec, fits: float, overflows: float, fix: str) -> None:
    assert np.isfinite(through(codec, np.float32([fits, -fits]))).all()
    for value in np.float32([overflows, -overflows]):
        x = np.float32([1, fits, value, value])
        with pytest.raises(CodecError) as error:
            codec.encode(x, Spec(4), KEY)
        assert str(error.value) == f"{codec.name}: x[2] = {value} rounds to infinity; {fix}"


@pytest.mark.parametrize(("codec", "bits"), [(Float16(), "007c"), (Float16(), "01fe"), (BFloat16(), "807f")])
def test_decoders_refuse_what_is_not_finite(codec: Codec, bits: str) -> None:
    payload = frame(bytes.fromhex(bits), codec.context(Spec(1), KEY, NO_KNOBS))
    with pytest.raises(CodecError, match=f"{codec.name}: decodes to a number that is not finite"):
        codec.decode(payload, Spec(1), KEY)


def test_variance_bounds() -> None:
    assert Float32().variance_bound(Spec(9)) == 0
    assert Float16().variance_bound(Spec(9)) is None
    assert BFloat16().variance_bound(Spec(9)) is None
