"""What the kernels and codecs are to reach, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fedquant.bench.coding import OURS
from fedquant.bench.results import Results
from fedquant.bench.timing import Timing

# Kernels: x on one thread, x on two; None where only one of them has a target.
_KERNELS: Final[dict[str, tuple[float | None, float | None]]] = {
    "max_abs + quantize_bits, 4 bit": (0.40, 0.65),
    "max_abs + quantize_bits, 2 bit": (0.40, 0.65),
    "dequantize_bits, 4 bit": (0.6, 1.7),
    "dequantize_bits, 2 bit": (0.6, 1.7),
    "add_bits, 4 bit, one of 10 payloads": (1.6, 2.4),
    "hadamard.transform, order 256": (0.5, 1.0),
    "topk.largest, 1 %": (0.2, None),
    "quantize_bits, 4 bit, numpy": (0.07, None),
}
# (codec, way): x on one thread.
_CODECS: Final = {
    ("qcs", "encode body"): 0.33,
    ("qcs", "decode body"): 0.33,
    ("qsgd bits=4", "encode"): 0.35,
    ("dataq m=8 code=fixed", "encode body"): 0.6,
    ("dataq m=8 code=fixed", "decode body"): 0.7,
}
_CODING: Final = {3: 900.0, 15: 400.0}  # levels: million symbols a second on two threads
_EXCESS: Final = 0.005
_SMALL: Final = ("qsgd bits=4", 10e-6)
# Codec: NMSE and bit/element at most, on the layered normal tensor; encoded and decoded in so many seconds.
_RATES: Final = {"ecq nmse=0.0085": (8.5e-3, 3.1), "ecq nmse=0.0085 dither": (8.5e-3, 3.2)}
_SECONDS: Final = 0.3
_ROOM: Final = 1.001  # dither meets the error in expectation


@dataclass(frozen=True)
class Verdict:
    """A target and the median measured, None where nothing was. at_best: of the fastest run, where kept."""

    what: str
    unit: str
    limit: float
    measured: float | None
    at_most: bool = False
    at_best: float | None = None

    @property
    def holds(self) -> bool:
        """Whether it was measured and reached."""
        return self.measured is not None and self.distance is not None and self.distance >= 0

    @property
    def distance(self) -> float | None:
        """Share of the limit by which it is exceeded for the better; negative where it is missed."""
        if self.measured is None:
            return None
        share = self.measured / self.limit - 1
        return -share if self.at_most else share


def judge(results: Results) -> list[Verdict]:
    """A verdict a target."""
    return [
        *_of_kernels(results),
        *_of_coding(results),
        *_of_codecs(results),
        *_of_rates(results),
        *_of_small(results),
    ]


def _speed(what: str, limit: float, timings: tuple[Timing, ...], threads: int) -> Verdict:
    found = next((timing for timing in timings if timing.threads == threads), None)
    what = f"{what}, {threads}T"
    return Verdict(what, "x", limit, found.x if found else None, at_best=found.x_best if found else None)


def _of_kernels(results: Results) -> Iterator[Verdict]:
    rows = {row.name: row for row in results.kernels}
    for name, limits in _KERNELS.items():
        timings = rows[name].timings if name in rows else ()
        for threads, limit in enumerate(limits, start=1):
            if limit is not None:
                yield _speed(name, limit, timings, threads)


def _of_coding(results: Results) -> Iterator[Verdict]:
    rows = {row.levels: row for row in results.coding if row.coder == OURS}
    for levels, limit in _CODING.items():
        row = rows.get(levels)
        for way in ("encode", "decode"):
            timings: tuple[Timing, ...] = getattr(row, way, ())
            last = next((t for t in timings if t.threads == 2), None)
            speeds = (
                [row.symbols / t / 1e6 for t in (last.seconds, last.best)] if row and last else [None] * 2
            )
            what = f"entropy code, {levels} levels, {way}, 2T"
            yield Verdict(what, "Msym/s", limit, speeds[0], at_best=speeds[1])
        excess = 100 * row.excess if row else None
        yield Verdict(f"entropy code, {levels} levels, above the entropy", "%", 100 * _EXCESS, excess, True)


def _of_codecs(results: Results) -> Iterator[Verdict]:
    rows = {row.name: row for row in (*results.codecs, *results.data_codecs)}
    for (name, way), limit in _CODECS.items():
        timings = rows[name].timings[way] if name in rows else ()
        framed = "" if way.endswith("body") else ", framed"
        yield _speed(f"{name}, {way}{framed}", limit, timings, 1)


def _of_rates(results: Results) -> Iterator[Verdict]:
    rows = {row.name: row for row in results.comparisons[0].rows} if results.comparisons else {}
    for name, (nmse, bits) in _RATES.items():
        row = rows.get(name)
        yield Verdict(f"{name}, error", "NMSE", nmse * _ROOM, row.nmse if row else None, True)
        yield Verdict(f"{name}, rate", "bit/element", bits, row.bits if row else None, True)
        yield Verdict(f"{name}, encode, 2T", "s", _SECONDS, row.encode if row else None, True)
        yield Verdict(f"{name}, decode, 2T", "s", _SECONDS, row.decode if row else None, True)


def _of_small(results: Results) -> Iterator[Verdict]:
    name, limit = _SMALL
    row = next((row for row in results.small if row.name == name), None)
    yield Verdict(
        f"{name}, 1,000 numbers there and back",
        "µs",
        1e6 * limit,
        1e6 * row.round_trip if row else None,
        True,
    )
