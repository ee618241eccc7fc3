"""The configurations measured: whatever is registered, and variants of what has parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fedquant import registry

Config = Mapping[str, Any]

# A codec that is not named here is measured as it comes.
_VARIANTS: Final[dict[str, list[Config]]] = {
    "qsgd": [
        {"bits": 2},
        {"bits": 4},
        {"bits": 8},
        {"bits": 4, "scope": "segment"},
        {"bits": 4, "scope": "segment", "entropy": True},
        {"bits": 4, "scope": 512},
    ],
    "terngrad": [{}, {"entropy": True}],
    "sign": [{}, {"scope": "segment"}],
    "uniform": [{"bits": 4}, {"bits": 8}, {"bits": 8, "entropy": True}],
    "topk": [{"ratio": 0.01}, {"ratio": 0.01, "values": "float16"}, {"ratio": 0.1}],
    "qtopk": [{"ratio": 0.01}, {"ratio": 0.1}],
    "qcs": [{}, {"entropy": True}, {"k_over_n": 0.5}, {"q": 7.5}],
    "ecq": [
        {"nmse": 8.5e-3},
        {"nmse": 8.5e-3, "dither": True},
        {"bits_per_element": 2.0},
    ],
    "error_feedback": [{"inner": {"name": "qsgd", "bits": 4}}],
}
# More points of rate and distortion, which take no other time.
_POINTS: Final[dict[str, list[Config]]] = {
    "qsgd": [{"bits": 8, "scope": 4096}, {"bits": 8, "scope": "segment", "entropy": True}],
    "ecq": [{"nmse": 1.7e-4}, {"nmse": 0.1}, {"nmse": 0.5}, {"nmse": 1.7e-4, "dither": True}],
}
DATA: Final[list[Config]] = [
    {"name": "raw"},
    {"name": "dataq", "m": 8, "code": "fixed"},
    {"name": "dataq", "m": 8},
    {"name": "dataq", "m": 64},
]


@dataclass(frozen=True)
class Choice:
    """A configuration, and what it is called in tables."""

    label: str
    config: Config


def codecs(points: bool = False) -> Iterator[Choice]:
    """Every registered codec of vectors, in its variants; points: those for rate and distortion, too."""
    for name in registry.names("codec"):
        for fields in _VARIANTS.get(name, [{}]) + (_POINTS.get(name, []) if points else []):
            config = {"name": name, **fields}
            yield Choice(label(config), config)


def label(config: Config) -> str:
    """The name, then the fields given: `qsgd bits=4 entropy`."""
    parts = [str(config["name"])]
    for key, value in config.items():
        if key == "name":
            continue
        if isinstance(value, Mapping):
            value = f"({label(value)})"
        parts.append(
            key if value is True else f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        )
    return " ".join(parts)
