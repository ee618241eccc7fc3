"""Each codec against memcpy of its input: the body alone, and as everyone calls it, checked and framed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from fedquant import registry
from fedquant.bench.configurations import DATA, codecs, label
from fedquant.bench.tensor import F32
from fedquant.bench.timing import Memcpy, Operation, Timing, compare_all
from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.data import DataCodec, DataSpec
from fedquant.errors import CodecError
from fedquant.keys import Key, Purpose
from fedquant.wire import NO_KNOBS

Progress = Callable[[str], None]
Timings = tuple[Timing, ...]

KEY: Final = Key(1, 2, 3, 4, Purpose.GRADIENT)
WAYS: Final = ("encode body", "decode body", "encode", "decode")
_NO_LABELS: Final = np.zeros(0, np.int64)


@dataclass(frozen=True)
class CodecRow:
    """A configuration: bytes of a payload of so many numbers, and by WAYS a timing a thread count."""

    name: str
    numbers: int
    payload_bytes: int
    timings: dict[str, Timings]

    @property
    def bits(self) -> float:
        """bit/element, everything included."""
        return 8 * self.payload_bytes / self.numbers


def measure(x: F32, spec: Spec, budget: float, progress: Progress) -> tuple[list[CodecRow], dict[str, str]]:
    """(a row a codec of vectors, why others refuse this one) for x: float32[size]."""
    rows, refused, memcpy = [], {}, Memcpy(x)
    for choice in codecs():
        progress(f"codec {choice.label}")
        try:
            payload, operations = _of_vectors(registry.create("codec", choice.config), x, spec)
        except CodecError as error:
            refused[choice.label] = str(error)
        else:
            rows.append(_row(choice.label, x.size, payload, operations, memcpy, budget))
    return rows, refused


def measure_data(x: F32, budget: float, progress: Progress) -> list[CodecRow]:
    """A row a codec of data for x: float32[n, d], without labels."""
    rows, memcpy = [], Memcpy(x)
    for config in DATA:
        progress(f"data codec {label(config)}")
        payload, operations = _of_data(registry.create("data_codec", config), x)
        rows.append(_row(label(config), x.size, payload, operations, memcpy, budget))
    return rows


def _of_vectors(codec: Codec, x: F32, spec: Spec) -> tuple[bytes, tuple[Operation, ...]]:
    """(payload, what to time, in the order of WAYS)."""
    state = codec.init(spec)
    payload, _ = codec.encode(x, spec, KEY, state)
    body = codec._encode_body(x, spec, KEY, state, NO_KNOBS).data
    return payload, (
        lambda: codec._encode_body(x, spec, KEY, state, NO_KNOBS),
        lambda: codec._decode_body(body, spec, KEY, NO_KNOBS),
        lambda: codec.encode(x, spec, KEY, state),
        lambda: codec.decode(payload, spec, KEY),
    )


def _of_data(codec: DataCodec, x: F32) -> tuple[bytes, tuple[Operation, ...]]:
    spec = DataSpec(x.shape[1:], len(x))
    payload = codec.encode(x, _NO_LABELS, spec, KEY)
    body = codec._encode_body(x, _NO_LABELS, spec, KEY, NO_KNOBS)
    return payload, (
        lambda: codec._encode_body(x, _NO_LABELS, spec, KEY, NO_KNOBS),
        lambda: codec._decode_body(body, spec, KEY, NO_KNOBS),
        lambda: codec.encode(x, _NO_LABELS, spec, KEY),
        lambda: codec.decode(payload, spec, KEY),
    )


def _row(
    name: str, n: int, payload: bytes, operations: tuple[Operation, ...], memcpy: Memcpy, budget: float
) -> CodecRow:
    timings = {
        way: compare_all(operation, memcpy, budget) for way, operation in zip(WAYS, operations, strict=True)
    }
    return CodecRow(name, n, len(payload), timings)
