"""Results as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from fedquant.bench.codecs import WAYS, CodecRow
from fedquant.bench.distortion import Comparison
from fedquant.bench.results import Results
from fedquant.bench.targets import Verdict, judge
from fedquant.bench.timing import Timing
from fedquant.machine import Machine

NONE: Final = "–"
_ABOUT: Final = """\
**x** is the speed as a multiple of memcpy's: the time of `np.copyto` of the float32 input on one
thread, between arrays that exist already, over the time of the operation, both measured in turns. 1T is
CPU time on one thread; 2T is wall time on two, which a busy machine lengthens. All times are medians,
but for *fastest*, the fastest run of both."""
_ABOUT_CODING: Final = """\
Codes are the layered normal tensor rounded at random to so many levels, a scale a layer. Speeds are in
million symbols a second; tables of frequencies are counted."""
_ABOUT_CODECS: Final = """\
In x. Body: what the codec itself writes. Payload: as everyone calls it, with input and output checked,
and framed with a CRC-32."""
_ABOUT_RATES: Final = """\
Rates count every byte that is sent: headers, scales, tables. NMSE is ‖x̂ − x‖²/‖x‖². *Over bound* is
the rate above that of a uniform quantizer with midpoints and an ideal entropy code a layer at the same
error. Times are wall time on two threads."""


def markdown(results: Results, picture: str) -> str:
    """The whole report; picture: the name of the file to show."""
    return "\n".join(
        [
            "# What kernels and codecs cost",
            "",
            *_machine(results),
            "",
            _ABOUT,
            "",
            "## Targets",
            "",
            verdicts(judge(results)),
            f"## Kernels, {results.numbers:,} numbers",
            "",
            _kernels(results),
            "## Entropy code",
            "",
            _ABOUT_CODING,
            "",
            _coding(results),
            f"## Codecs, {results.numbers:,} numbers",
            "",
            _ABOUT_CODECS,
            "",
            _codecs(results.codecs),
            *_data(results.data_codecs),
            "## 1,000 numbers",
            "",
            "CPU time on one thread of a call of the public API; payloads with header.",
            "",
            _small(results),
            "## Rate, distortion, time",
            "",
            _ABOUT_RATES,
            "",
            f"![Rate against error]({picture})",
            "",
            *(_comparison(found) for found in results.comparisons),
            *_missing(results),
        ]
    )


def to_json(results: Results) -> str:
    """All rows and the verdicts; seconds, unless a name says otherwise; floats to six digits."""
    targets = [{**asdict(v), "distance": v.distance, "holds": v.holds} for v in judge(results)]
    return json.dumps(_plain({**asdict(results), "targets": targets}), indent=1, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def verdicts(found: Sequence[Verdict]) -> str:
    """A table of targets; distance is to the limit, positive where it is kept."""
    return table(
        ["target", "limit", "measured", "fastest run", "unit", "distance", "holds"],
        [
            [
                v.what,
                f"{'≤' if v.at_most else '≥'} {v.limit:.3g}",
                *(NONE if value is None else f"{value:.3g}" for value in (v.measured, v.at_best)),
                v.unit,
                NONE if v.distance is None else f"{v.distance:+.0%}",
                "yes" if v.holds else "not measured" if v.measured is None else "**no**",
            ]
            for v in found
        ],
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, all but its first column to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _machine(results: Results) -> list[str]:
    m = results.machine
    memory = f", {m.memory_gb:g} GB" if m.memory_gb else ""
    busy = (
        ". **The machine was busy: trust 1T, of 2T the fastest runs, and no wall time.**" if _busy(m) else ""
    )
    versions = ", ".join(f"{name} {version}" for name, version in m.versions.items())
    return [
        f"- command: `{results.command}`, {results.seconds:.0f} s, {m.date}",
        f"- machine: {m.cpu}; {m.cores} cores{memory}; {m.system}",
        f"- load average before and after: {', '.join(f'{value:g}' for value in m.load) or 'unknown'} "
        f"(this process is up to {min(m.cores, 2)} of it){busy}",
        f"- Python {m.python}, kernels: {m.kernels}; {versions}",
    ]


def _busy(m: Machine) -> bool:
    return bool(m.load) and m.load[0] > m.cores / 4


def _kernels(results: Results) -> str:
    return table(
        ["kernel", "1T, ms", "1T, x", "fastest", "2T, ms", "2T, x", "fastest"],
        [[row.name, *_cells(row.timings)] for row in results.kernels],
    )


def _cells(timings: Sequence[Timing]) -> list[str]:
    cells = [text for t in timings for text in (f"{1e3 * t.seconds:.3g}", f"{t.x:.2f}", f"{t.x_best:.2f}")]
    return (cells + [NONE] * 6)[:6]


def _coding(results: Results) -> str:
    head = [
        "coder",
        "levels",
        "bit/symbol",
        "over entropy",
        "encode 1T",
        "decode 1T",
        "encode 2T",
        "decode 2T",
    ]
    rows = []
    for row in results.coding:
        speeds = {
            (way, t.threads): f"{row.symbols / t.seconds / 1e6:,.0f}"
            for way, timings in (("encode", row.encode), ("decode", row.decode))
            for t in timings
        }
        cells = [speeds.get((way, n), NONE) for n in (1, 2) for way in ("encode", "decode")]
        rows.append([row.coder, str(row.levels), f"{row.bits:.4f}", f"{row.excess:+.2%}", *cells])
    return table(head, rows)


def _codecs(rows: Sequence[CodecRow]) -> str:
    counts = [t.threads for t in rows[0].timings[WAYS[0]]] if rows else []
    names = [way.replace("encode", "enc.").replace("decode", "dec.") for way in WAYS]
    names = [name if "body" in name else f"{name} payload" for name in names]
    head = ["codec", "bit/element", *(f"{name} {n}T" for n in counts for name in names)]
    return table(
        head,
        [
            [row.name, f"{row.bits:.3g}"]
            + [f"{row.timings[way][i].x:.2f}" for i in range(len(counts)) for way in WAYS]
            for row in rows
        ],
    )


def _data(rows: Sequence[CodecRow]) -> Iterator[str]:
    if rows:
        yield f"### Codecs of data, {rows[0].numbers // 784:,} samples of 784 numbers\n"
        yield _codecs(rows)


def _small(results: Results) -> str:
    return table(
        ["codec", "payload, B", "encode, µs", "decode, µs", "both, µs"],
        [
            [
                row.name,
                f"{row.payload_bytes:,}",
                *(f"{1e6 * t:,.1f}" for t in (row.encode, row.decode, row.round_trip)),
            ]
            for row in results.small
        ],
    )


def _comparison(found: Comparison) -> str:
    head = ["scheme", "of", "bit/element", "NMSE", "over bound", "encode, ms", "decode, ms"]
    rows = [
        [
            row.name,
            row.library,
            f"{row.bits:.3f}",
            f"{row.nmse:.2e}",
            NONE if row.over_bound is None else f"{row.over_bound:+.2f}",
            f"{1e3 * row.encode:,.3g}",
            f"{1e3 * row.decode:,.3g}",
        ]
        for row in sorted(found.rows, key=lambda row: (row.nmse, row.bits))
    ]
    number = f", mean of {found.count}" if found.count > 1 else ""
    text = f"### {found.vectors}: {found.numbers:,} numbers{number}\n\n{table(head, rows)}"
    if found.failed:
        text += (
            "\nWithout a row: " + "; ".join(f"{name} ({why})" for name, why in found.failed.items()) + ".\n"
        )
    return text


def _missing(results: Results) -> list[str]:
    if not results.missing:
        return []
    return ["## Not measured\n", *(f"- {name}: {why}" for name, why in results.missing.items()), ""]
