"""What is fuzzed: payloads of every codec, headers and messages, with a reader that judges each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Final

import numpy as np

from fedquant import wire
from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.data import DataCodec, DataSpec
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key, Purpose
from fedquant.message import Hello, Reply, Request, Start, decode_knobs, encode_knobs
from fedquant.wire import NO_KNOBS, Knobs
from tests.fuzz.configs import KNOBS, LARGE, configs, default, label, specs

KEY: Final = Key(17, 23, 5, 6, Purpose.GRADIENT)
DATA_SPECS: Final = (
    DataSpec((), 3),
    DataSpec((3,), 5, 7),
    DataSpec((2, 3), 20, "float32"),
    DataSpec((2, 3), 20, "float16"),
    DataSpec((5,), 8, 1),
)


@dataclass(frozen=True)
class Format:
    """One kind of bytes that a reader takes.

    valid: bodies that it accepts. frame: a body, and a config or None, to a payload with a right checksum;
    None where bytes have no frame. read: raises CodecError for bytes it refuses and AssertionError where
    what it accepts is wrong. size: bytes of memory that the largest valid result takes. exact: no valid
    body is another's beginning.
    """

    label: str
    valid: tuple[bytes, ...]
    frame: Callable[[bytes, bytes | None], bytes] | None
    read: Callable[[bytes], None]
    size: int
    exact: bool = False

    @cached_property
    def payloads(self) -> tuple[bytes, ...]:
        """The valid bodies, framed where they have a frame."""
        return tuple(self.frame(body, None) if self.frame else body for body in self.valid)


def require(condition: Any, message: str) -> None:
    """Raises AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


# ---- codecs of vectors


def vectors(spec: Spec) -> list[Any]:
    """Ordinary and extreme vectors of a spec."""
    x = (rng.uniform(KEY, spec.size) * np.float32(2) - np.float32(1)).astype(spec.dtype)
    sparse = np.where(rng.integers(KEY.fold(stream=1), spec.size, 10) == 0, x, x.dtype.type(0))
    top = np.finfo(spec.dtype).max
    return [x, sparse, np.zeros_like(x), np.full_like(x, 0.25), x * x.dtype.type(1e-40), x * top]


def of_codec(codec: Codec, spec: Spec, key: Key, knobs: Knobs) -> Format:
    """Payloads of a vector. Raises CodecError where the codec takes no ordinary vector."""
    context, state = codec.context(spec, key, knobs), codec.init(spec)
    payloads = []
    for i, x in enumerate(vectors(spec)):
        try:
            payloads.append(codec.encode(x, spec, key, state, knobs)[0])
        except CodecError:  # an extreme vector may be out of a codec's range
            if i == 0:
                raise
    one = np.ones(spec.size, spec.dtype)

    def read(payload: bytes) -> None:
        out = one.copy()
        refused = codec.add_decoded(out, [payload], spec, [key], [1.0], knobs)
        try:
            x = codec.decode(payload, spec, key, knobs)
        except CodecError:
            require(list(refused) == [0], "add_decoded accepts what decode refuses")
            require(np.array_equal(out, one), "add_decoded adds what it refuses")
            raise
        require(x.shape == (spec.size,) and x.dtype == spec.dtype, f"decodes to {x.dtype}{list(x.shape)}")
        require(np.isfinite(x).all(), "decodes to a number that is not finite")
        require(not refused, "add_decoded refuses what decode accepts")
        require(np.array_equal(out, one + x), "add_decoded differs from decode")

    return Format(
        f"{spec.identity}, knobs {dict(knobs)}",
        tuple(wire.unframe(p, context) for p in payloads),
        lambda body, config: wire.frame(body, context, config),
        read,
        spec.size * np.dtype(spec.dtype).itemsize,
    )


# ---- codecs of samples


def of_data_codec(codec: DataCodec, spec: DataSpec, key: Key) -> Format:
    """Payloads of samples."""
    context = codec.context(spec, key, NO_KNOBS)
    payloads = []
    for n in {0, 1, 2, spec.max_samples}:
        size = n * spec.size
        labels = np.arange(n) % (spec.labels if isinstance(spec.labels, int) and spec.labels else 5)
        for x in vectors(Spec(size))[:4]:
            payloads.append(codec.encode(x.reshape(n, *spec.shape), labels, spec, key))
        payloads.append(codec.encode(np.abs(x).reshape(n, *spec.shape), labels, spec, key))

    def read(payload: bytes) -> None:
        x, labels = codec.decode(payload, spec, key)
        require(x.ndim == 1 + len(spec.shape) and x.shape[1:] == spec.shape, f"samples of {x.shape}")
        require(len(x) <= spec.max_samples and x.dtype == np.float32, f"{len(x)} samples of {x.dtype}")
        require(np.isfinite(x).all(), "decodes to a number that is not finite")
        require(labels.shape == ((len(x),) if spec.labels else (0,)), f"labels of {labels.shape}")
        if isinstance(spec.labels, str):
            require(labels.dtype == spec.labels and np.isfinite(labels).all(), "labels that are no targets")
        else:
            inside = (labels >= 0) & (labels < spec.labels)
            require(labels.dtype == np.int64 and inside.all(), "labels that are no classes")

    return Format(
        f"{spec.identity}",
        tuple(dict.fromkeys(wire.unframe(p, context) for p in payloads)),
        lambda body, config: wire.frame(body, context, config),
        read,
        spec.max_samples * (4 * spec.size + 8),
    )


# ---- headers and messages

_KNOBS: Final[dict[str, Knobs]] = {
    "codec": {"bits": -3, "table": b"\0\1" * 20, "levels": 2**40},
    "selection": {"threshold": b"12345678"},
}
MESSAGES: Final[dict[str, tuple[Any, ...]]] = {
    "start": (Start(2**64 - 1, 300), Start(0, 0)),
    "hello": (Hello(2**64 - 1, (0, 5, 2**22 - 1), (10, 0, 2**32 - 1)), Hello(0, (), ())),
    "request": (
        Request(7, 3, (1, 4), (0, 2), (False, True), _KNOBS, (b"model" * 30, b"", b"buffers")),
        Request(7, 3, tuple(range(50)), (0,) * 50, (True,) * 50, {}, ()),
        Request(0, 0, (), (), (), {}, ()),
    ),
    "reply": (
        Reply(7, 3, (1, 4), ((b"abc", b""), (b"", b"x"))),
        Reply(7, 3, tuple(range(40)), ((b"0123456789",),) * 40),
        Reply(0, 0, (), ()),
    ),
}


def of_messages(name: str) -> Format:
    """Messages of one kind: what is read must be written and read again as the same."""
    examples = MESSAGES[name]
    kind = type(examples[0])

    def read(data: bytes) -> None:
        message = kind.from_bytes(data)
        require(kind.from_bytes(message.to_bytes()) == message, "does not come back")

    return Format(name, tuple(m.to_bytes() for m in examples), None, read, 0, exact=True)


def of_knobs() -> Format:
    """Knobs as they are broadcast."""

    def read(data: bytes) -> None:
        knobs = decode_knobs(data)
        require(decode_knobs(encode_knobs(knobs)) == knobs, "do not come back")

    return Format("knobs", tuple(encode_knobs(k) for k in ({}, _KNOBS)), None, read, 0)


def of_headers() -> Format:
    """Headers read without a check of the checksum."""
    context = wire.Context(1, KEY, NO_KNOBS)
    parted = wire.Context(1, KEY.fold(part=700), NO_KNOBS)
    valid = [wire.frame(b"body", c, config) for c in (context, parted) for config in (None, b"", b'{"a":1}')]

    def read(payload: bytes) -> None:
        part, config = wire.part_of(payload), wire.config_of(payload)
        require(0 <= part < 1 << 16, f"part {part}")
        require(config is None or config in payload, "a config that is not there")

    return Format("header", tuple(valid), None, read, 0)


# ---- all of them


@cache
def subjects() -> dict[str, Callable[[], list[Format]]]:
    """Label to what builds the formats of every codec configuration, message and header."""
    found: dict[str, Callable[[], list[Format]]] = {}
    for codec in configs("codec"):
        found[label(codec)] = partial(_codec_formats, codec)
    for data_codec in configs("data_codec"):
        found[label(data_codec)] = partial(_data_codec_formats, data_codec)
    for name in MESSAGES:
        found[name] = partial(_list, of_messages, name)
    return found | {"knobs": partial(_list, of_knobs), "header": partial(_list, of_headers)}


@cache
def formats(subject: str) -> tuple[Format, ...]:
    """The formats of a subject; built once."""
    return tuple(subjects()[subject]())


def _list(build: Callable[..., Format], *args: str) -> list[Format]:
    return [build(*args)]


def _data_codec_formats(codec: DataCodec) -> list[Format]:
    return [of_data_codec(codec, spec, KEY.fold(part=i)) for i, spec in enumerate(DATA_SPECS)]


def _codec_formats(codec: Codec) -> list[Format]:
    accepted, name = specs(codec), codec.name
    require(accepted, f"{label(codec)} accepts no spec")
    settings = [(spec, NO_KNOBS) for spec in accepted]
    if codec == default("codec", name):
        # the defaults alone meet vectors that fill whole blocks of packed codes, for the sake of time
        settings += [(spec, NO_KNOBS) for spec in specs(codec, LARGE)]
    settings += [(accepted[-1], knobs) for knobs in KNOBS.get(name, [])]
    return [of_codec(codec, spec, KEY.fold(part=i), knobs) for i, (spec, knobs) in enumerate(settings)]
