"""Rate, distortion and time of every codec and peer on the same vectors, and a bound to hold them against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from fedquant import registry
from fedquant.bench.coding import entropy_of
from fedquant.bench.configurations import codecs
from fedquant.bench.peers import Peer, foreign, reason
from fedquant.bench.tensor import F32
from fedquant.bench.timing import thread_counts, threads
from fedquant.bench.vectors import Vectors
from fedquant.codecs.base import Spec
from fedquant.codecs.groups import groups
from fedquant.errors import CodecError
from fedquant.keys import Key, Purpose

Points = Sequence[tuple[float, float]]
"""(NMSE, bit/element), the error rising."""

OURS: Final = "fedquant"
KEY: Final = Key(1, 2, 3, 4, Purpose.GRADIENT)
RUNS: Final = 3
SLOW: Final = 1.0  # s; what is slower runs once
SAMPLE: Final = 1 << 20  # numbers of which the bound is computed


@dataclass(frozen=True)
class RateRow:
    """A scheme: bit/element of whole payloads, ‖x̂ − x‖²/‖x‖², and seconds a vector on two threads."""

    name: str
    library: str
    bits: float
    nmse: float
    encode: float
    decode: float
    over_bound: float | None


@dataclass(frozen=True)
class Comparison:
    """All schemes on one set of vectors. failed: why a scheme has no row. bound: of the uniform quantizer."""

    vectors: str
    numbers: int
    count: int
    rows: list[RateRow]
    bound: list[tuple[float, float]]
    failed: dict[str, str]


def compare_schemes(vectors: Vectors, others: Sequence[Peer], progress: Callable[[str], None]) -> Comparison:
    """Every registered codec, then every peer."""
    spec, bound = vectors.spec, entropy_bound(vectors)
    rows: list[RateRow] = []
    failed = {}
    for choice in codecs(points=True):
        progress(f"{vectors.name}: {choice.label}")
        codec = registry.create("codec", choice.config)

        def encode(x: F32, spec: Spec, codec: Any = codec) -> tuple[int, bytes]:
            payload, _ = codec.encode(x, spec, KEY, codec.init(spec))
            return len(payload), payload

        def decode(payload: bytes, codec: Any = codec) -> F32:
            x: F32 = codec.decode(payload, spec, KEY)
            return x

        try:
            rows.append(_row(choice.label, OURS, encode, decode, vectors, bound))
        except CodecError as error:
            failed[choice.label] = str(error)
    for peer in others:
        if peer.limit and spec.size > peer.limit:
            failed[peer.name] = f"takes minutes for {spec.size:,} numbers"
            continue
        progress(f"{vectors.name}: {peer.name}")
        try:
            with foreign():
                rows.append(_row(peer.name, peer.library, peer.encode, peer.decode, vectors, bound))
        except Exception as error:  # a peer that breaks is a result, too
            failed[peer.name] = reason(error)
    return Comparison(vectors.name, spec.size, len(vectors.each), rows, list(bound), failed)


def entropy_bound(vectors: Vectors) -> Points:
    """Uniform quantizers of all steps with midpoints, and an ideal code a layer for independent symbols.

    Of a million numbers at most, evenly taken.
    """
    steps = np.geomspace(2.0**-7, 2.0**5, 37)
    total: Any = np.zeros((len(steps), 2))
    for x in vectors.each:
        every = -(-x.size // SAMPLE)
        layers = [x[a:b:every].astype(np.float64) for a, b in groups(vectors.spec, "segment")]
        n, energy = sum(layer.size for layer in layers), sum(float(layer @ layer) for layer in layers)
        for i, step in enumerate(steps * np.sqrt(energy / n)):
            bits = error = 0.0
            for layer in layers:
                q = np.rint(layer / step).astype(np.int64)
                lost = layer - q * step
                bits += q.size * entropy_of(q)
                error += float(lost @ lost)
            total[i] += error / energy, bits / n
    points: list[tuple[float, float]] = []
    for nmse, bits in (total / len(vectors.each)).tolist():
        if not points or nmse > points[-1][0]:
            points.append((nmse, bits))
    return points


def bound_at(nmse: float, bound: Points) -> float | None:
    """bit/element of the bound at an error, between its points; None outside them."""
    errors = [error for error, _ in bound]
    if not errors[0] <= nmse <= errors[-1]:
        return None
    return float(np.interp(np.log(nmse), np.log(errors), [bits for _, bits in bound]))


def _row(
    name: str,
    library: str,
    encode: Callable[[F32, Spec], tuple[int, Any]],
    decode: Callable[[Any], F32],
    vectors: Vectors,
    bound: Points,
) -> RateRow:
    sizes, errors, coding, decoding = [], [], [], []
    for x in vectors.each:
        (size, sent), seconds = _timed(partial(encode, x, vectors.spec))
        back, later = _timed(partial(decode, sent))
        sizes.append(size)
        coding.append(seconds)
        decoding.append(later)
        errors.append(_nmse(x, back))
    bits, nmse = 8 * statistics.fmean(sizes) / vectors.spec.size, statistics.fmean(errors)
    ideal = bound_at(nmse, bound)
    return RateRow(
        name,
        library,
        bits,
        nmse,
        statistics.fmean(coding),
        statistics.fmean(decoding),
        None if ideal is None else bits - ideal,
    )


def _nmse(x: F32, back: F32) -> float:
    lost = back.astype(np.float64) - x
    return float(lost @ lost) / float(np.sum(np.square(x, dtype=np.float64)))


def _timed(operation: Callable[[], Any]) -> tuple[Any, float]:
    """(result, median of the seconds of some runs): the first, which may compile, counts only if slow."""
    with threads(thread_counts()[-1]):
        result, first = _once(operation)
        if first > SLOW:
            return result, first
        return result, statistics.median(_once(operation)[1] for _ in range(RUNS))


def _once(operation: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = operation()
    return result, time.perf_counter() - start
