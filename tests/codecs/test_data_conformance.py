"""What every codec of samples must do, whatever it does to numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedquant import registry, wire
from fedquant.codecs.data import DataCodec, DataSpec
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key, Purpose
from fedquant.wire import NO_KNOBS

KEY = Key(11, 12, 3, 4, Purpose.DATA)
DATA = DataSpec((2, 3), 40, 5)

DATA_CODECS: list[Any] = [
    *registry.names("data_codec"),
    {"name": "dataq", "m": 2},
    {"name": "dataq", "code": "fixed"},
    {"name": "dataq", "m": 256, "code": "fixed", "rounding": "nearest"},
    {"name": "dataq", "scale": "l2"},
    {"name": "dataq", "scale": "l2", "code": "simplex"},
    {"name": "dataq", "scale": "l2", "m": 3, "rounding": "stochastic"},
    {"name": "dataq", "scale": "l2", "m": 4, "rounding": "nearest", "code": "simplex"},
    {"name": "dataq", "scale": "l2", "m": 65536},
    {"name": "dataq", "m": 100, "rounding": "nearest"},
    {"name": "dataq", "m": 3, "rounding": "stochastic"},
]
every_data_codec = pytest.mark.parametrize(
    "codec", [registry.create("data_codec", c) for c in DATA_CODECS], ids=map(str, DATA_CODECS)
)


def samples(n: int, spec: DataSpec = DATA) -> tuple[np.ndarray, np.ndarray]:
    return (rng.uniform(Key(99), n * spec.size) * np.float32(2) - np.float32(1)).reshape(
        n, *spec.shape
    ), np.arange(n) % 5


@every_data_codec
@pytest.mark.parametrize("n", [0, 1, 2, 39, 40])
@pytest.mark.parametrize("labels", [0, 1, 5, "float16", "float32"])
def test_samples_round_trip(codec: DataCodec, n: int, labels: Any) -> None:
    spec = DataSpec((2, 3), 40, labels)
    x, y = samples(n)
    y = y % labels if isinstance(labels, int) and labels else y
    back, classes = codec.decode(codec.encode(x, y, spec, KEY), spec, KEY)
    assert back.dtype == np.float32
    assert back.shape == x.shape
    assert (np.abs(back - x) <= 1).all()
    assert classes.tolist() == ([] if labels == 0 else y.tolist())


@every_data_codec
@pytest.mark.parametrize("shape", [(), (1,), (257,), (3, 5, 7)])
def test_sample_shapes(codec: DataCodec, shape: tuple[int, ...]) -> None:
    spec = DataSpec(shape, 6, 5)
    x, y = samples(6, spec)
    back, _ = codec.decode(codec.encode(x, y, spec, KEY), spec, KEY)
    assert back.shape == x.shape


@every_data_codec
def test_samples_of_zeros_and_denormals(codec: DataCodec) -> None:
    spec = DataSpec((3,), 4, 5)
    for values in ([0.0, -0.0, 0.0], [1e-45, 0.0, -1e-40], [1e30, -1e30, 1e-45]):
        x = np.array([values], np.float32)
        back, _ = codec.decode(codec.encode(x, np.array([4]), spec, KEY), spec, KEY)
        assert (np.abs(back.astype(float) - x) <= np.abs(x).max() * 1.000001).all()


@every_data_codec
def test_samples_encode_the_same_each_time(codec: DataCodec) -> None:
    x, y = samples(20)
    assert codec.encode(x, y, DATA, KEY) == codec.encode(x.copy(), y.copy(), DATA, replace(KEY))


@every_data_codec
def test_bad_samples_are_refused(codec: DataCodec) -> None:
    x, y = samples(4)
    for value in (np.nan, np.inf, -np.inf):
        bad = x.copy()
        bad[2, 1, 0] = value
        with pytest.raises(CodecError, match=rf"^{codec.name}: sample 2 has {value} at 3"):
            codec.encode(bad, y, DATA, KEY)
    many = samples(41)
    for given, labels in ((x.reshape(4, 6), y), (x.astype(np.float64), y), many):
        with pytest.raises(CodecError, match=rf"^{codec.name}: got .*, expected float32\[n ≤ 40, 2, 3\]"):
            codec.encode(given, labels, DATA, KEY)
    with pytest.raises(CodecError, match=r"labels of shape \[3\], expected \[4\]"):
        codec.encode(x, y[:3], DATA, KEY)
    for label in (-1, 5):
        with pytest.raises(CodecError, match=rf"label {label} at 2 is outside \[0, 5\)"):
            codec.encode(x, np.array([0, 1, label, 2]), DATA, KEY)
    with pytest.raises(CodecError, match="does not fit float32"):
        codec.encode(x, np.array([0, 1, np.nan, 2]), DataSpec((2, 3), 40, "float32"), KEY)


@every_data_codec
def test_damaged_samples_are_refused(codec: DataCodec) -> None:
    x, y = samples(2)
    payload = codec.encode(x, y, DATA, KEY)
    for bit in range(8 * len(payload)):
        bad = bytearray(payload)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            codec.decode(bytes(bad), DATA, KEY)
    for bad in [payload[:size] for size in range(len(payload))] + [payload + b"\0"]:
        with pytest.raises(CodecError):
            codec.decode(bad, DATA, KEY)


@every_data_codec
def test_samples_of_another_context_are_refused(codec: DataCodec) -> None:
    payload = codec.encode(*samples(2), DATA, KEY)
    for key in (KEY.fold(round=4), KEY.fold(sensor=5), KEY.fold(part=1), replace(KEY, run=13)):
        with pytest.raises(CodecError):
            codec.decode(payload, DATA, key)
    for spec in (replace(DATA, shape=(3, 2)), replace(DATA, max_samples=41), replace(DATA, labels=6)):
        with pytest.raises(CodecError, match="checksum differs"):
            codec.decode(payload, spec, KEY)
    with pytest.raises(CodecError, match="unknown knobs"):
        codec.decode(payload, DATA, KEY, {"nonsense": 1})


@every_data_codec
def test_hostile_samples_are_refused_or_finite_and_few(codec: DataCodec) -> None:
    true = wire.unframe(codec.encode(*samples(2), DATA, KEY), codec.context(DATA, KEY, NO_KNOBS))
    for trial in range(300):
        key = KEY.fold(round=trial)
        size = len(true) if trial % 3 else trial // 3
        body = (rng.uint32(key, size) & 0xFF).astype(np.uint8).tobytes()
        if trial % 2:
            body = true[:6] + body[6:]
        payload = wire.frame(body, codec.context(DATA, key, NO_KNOBS))
        try:
            x, y = codec.decode(payload, DATA, key)
        except CodecError:
            continue
        assert len(x) == len(y) <= DATA.max_samples
        assert np.isfinite(x).all()
        assert ((y >= 0) & (y < 5)).all()
