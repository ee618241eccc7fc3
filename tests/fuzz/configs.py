"""Configurations to test of every registered codec, found from the types of its fields.

A codec is covered the day it is registered: with its defaults, and with each field set to each of its
choices or to the ends of its range. `MORE` adds combinations, `KNOBS` what a server may set.
"""

from __future__ import annotations

import json
import struct
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from typing import Annotated, Any, Final, Literal, Union

from pydantic.fields import FieldInfo

from fedquant import registry
from fedquant.codecs.base import Codec, Spec
from fedquant.errors import CodecError, ConfigError
from fedquant.wire import Knobs

INNER: Final = ("qsgd", "float32")
"""What wrappers wrap."""

MORE: Final[dict[str, list[dict[str, Any]]]] = {
    "qsgd": [{"bits": 3, "scope": "segment"}, {"bits": 8, "norm": "l2", "scope": 5}],
    "uniform": [{"bits": 2.5}],
    "dataq": [{"m": 3, "rounding": "stochastic"}, {"m": 100, "rounding": "nearest"}],
}
KNOBS: Final[dict[str, list[Knobs]]] = {
    "qsgd": [{"bits": 2}, {"bits": 7}, {"levels": 5}],
    "uniform": [{"levels": 3}, {"levels": 256}, {"range": struct.pack("<d", 100.0)}],
}

_DTYPES: Final = typing.get_args(typing.get_type_hints(Spec)["dtype"])
_SIZES: Final = ((0, ()), (1, ()), (9, (3, 4, 9)), (100, (33, 50, 100)))
SPECS: Final = tuple(Spec(size, dtype, ends) for dtype in _DTYPES for size, ends in _SIZES)
LARGE: Final = tuple(Spec(2500, dtype, (800, 1250, 2500)) for dtype in _DTYPES)


def label(thing: Any) -> str:
    """The configuration as JSON: what `registry.create` builds it from, and a test's name."""
    return json.dumps(registry.config(thing), separators=(",", ":"))


def default(kind: registry.Kind, name: str) -> Any:
    """The codec of a name with nothing set but what it requires."""
    return registry.create(kind, {"name": name, **_required(registry.lookup(kind, name))})


def configs(kind: registry.Kind) -> list[Any]:
    """Codecs of every registered name, none twice."""
    found: dict[str, Any] = {}
    for name in registry.names(kind):
        thing = default(kind, name)
        found[label(thing)] = thing
        base = {"name": name, **_required(type(thing))}
        for more in MORE.get(name, []):
            thing = registry.create(kind, {**base, **more})
            found[label(thing)] = thing
        for change in _changes(type(thing)):
            try:
                thing = registry.create(kind, {**base, **change})
            except ConfigError:  # two fields that exclude each other
                continue
            if kind != "codec" or specs(thing):
                found[label(thing)] = thing
    return list(found.values())


def specs(codec: Codec, among: Sequence[Spec] = SPECS) -> list[Spec]:
    """Those that the codec accepts; by default of none, one, a few and many numbers of each dtype."""
    return [spec for spec in among if _accepts(codec, spec)]


def _accepts(codec: Codec, spec: Spec) -> bool:
    try:
        codec.check(spec)
    except CodecError:
        return False
    return True


def _required(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    needed = [f for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    return {f.name: next(_values(hints[f.name]), None) for f in needed}


def _changes(cls: type[Any]) -> Iterator[dict[str, Any]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    for f in fields(cls):
        for value in _values(hints[f.name]):
            yield {f.name: value}


def _values(hint: Any) -> Iterator[Any]:
    """A few values of a type: every choice, the ends of a range, the codecs that wrappers wrap."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        yield from args
    elif origin in (Union, types.UnionType):
        for arg in args:
            yield from _values(arg)
    elif origin is Annotated and args[0] in (int, float):
        yield from _ends(args[0], args[1:])
    elif origin is Annotated:
        yield from _values(args[0])
    elif hint is bool:
        yield from (False, True)
    elif isinstance(hint, type) and issubclass(hint, Codec):
        yield from INNER


def _ends(number: type, metadata: tuple[Any, ...]) -> Iterator[Any]:
    """The ends of a range, or numbers near its only end."""
    bounds = [b for item in metadata for b in (item.metadata if isinstance(item, FieldInfo) else [item])]
    limit = {k: getattr(b, k) for b in bounds for k in ("ge", "gt", "le", "lt") if hasattr(b, k)}
    low, high = limit.get("ge", limit.get("gt")), limit.get("le", limit.get("lt"))
    if number is float:  # an open end is no useful setting; what lies between is
        yield from (limit[k] for k in ("ge", "le") if k in limit)
        yield (low or 0.0) + 64.0 if high is None else ((low or 0.0) + high) / 2
    elif low is not None:
        low += "gt" in limit
        yield from [low + 6] if high is None else [low, high - ("lt" in limit)]
