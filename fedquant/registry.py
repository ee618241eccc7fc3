"""Names in YAML to classes, and back. A new codec, selection or task is one line here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from fedquant.errors import ConfigError, suggest
from fedquant.explain import explain, finite, not_finite, shown

Kind = Literal["codec", "data_codec", "selection", "controller", "task"]

REGISTRY: Final[dict[Kind, dict[str, str]]] = {
    "codec": {
        "float32": "fedquant.codecs.floats:Float32",
        "float64": "fedquant.codecs.floats:Float64",
        "float16": "fedquant.codecs.floats:Float16",
        "bfloat16": "fedquant.codecs.floats:BFloat16",
        "qsgd": "fedquant.codecs.qsgd:QSGD",
        "terngrad": "fedquant.codecs.terngrad:TernGrad",
        "sign": "fedquant.codecs.sign:Sign",
        "uniform": "fedquant.codecs.uniform:Uniform",
        "ball": "fedquant.codecs.ball:Ball",
        "topk": "fedquant.codecs.topk:TopK",
        "qtopk": "fedquant.codecs.qtopk:QTopK",
        "sparse": "fedquant.codecs.sparse:Sparse",
        "ecq": "fedquant.codecs.ecq:ECQ",
        "qcs": "fedquant.codecs.qcs:QCS",
        "dataq_gradient": "fedquant.codecs.dataq_gradient:DataQGradient",
        "error_feedback": "fedquant.codecs.error_feedback:ErrorFeedback",
    },
    "data_codec": {
        "raw": "fedquant.codecs.raw:Raw",
        "dataq": "fedquant.codecs.dataq:DataQ",
    },
    "selection": {
        "all": "fedquant.selection.rules:All",
        "random": "fedquant.selection.rules:Random",
        "relative": "fedquant.selection.rules:Relative",
        "sqrt_schedule": "fedquant.selection.rules:SqrtSchedule",
        "top_fraction": "fedquant.selection.rules:TopFraction",
    },
    "controller": {
        "fixed": "fedquant.control.rules:Fixed",
        "dqsgd_convex": "fedquant.control.rules:DQSGDConvex",
        "dqsgd_nonconvex": "fedquant.control.rules:DQSGDNonconvex",
        "adaptive": "fedquant.control.heuristics:Adaptive",
        "adaqs": "fedquant.control.heuristics:AdaQS",
    },
    "task": {
        "watch": "fedquant.tasks.watch:Watch",
        "forecast": "fedquant.tasks.forecast:Forecast",
        "mnist": "fedquant.tasks.vision:Mnist",
        "fashion_mnist": "fedquant.tasks.vision:FashionMnist",
        "cifar10": "fedquant.tasks.cifar:Cifar10",
        "cifar100": "fedquant.tasks.cifar:Cifar100",
        "imagenet": "fedquant.tasks.imagenet:ImageNet",
        "ag_news": "fedquant.tasks.text:AgNews",
        "least_squares": "fedquant.tasks.convex:LeastSquares",
        "matrix": "fedquant.tasks.convex:Matrix",
        "logistic": "fedquant.tasks.convex:Logistic",
    },
}

_OTHER_CODECS: Final[dict[Kind, tuple[Kind, str]]] = {
    "codec": ("data_codec", "it codes samples, for an uplink of kind: data"),
    "data_codec": ("codec", "it codes vectors, for an uplink of kind: gradient or kind: delta"),
}


def names(kind: Kind) -> tuple[str, ...]:
    """The registered names of a kind."""
    return tuple(REGISTRY[kind])


@cache
def lookup(kind: Kind, name: str) -> type[Any]:
    """The class behind a name; imported on first use. Raises ConfigError for an unknown name."""
    try:
        module, cls = REGISTRY[kind][name].split(":")
    except KeyError:
        label, why = kind.replace("_", " "), suggest(name, REGISTRY[kind])
        other, use = _OTHER_CODECS.get(kind, (kind, ""))
        if name in REGISTRY[other]:
            why = f"{use}; known here: {', '.join(sorted(REGISTRY[kind]))}"
        raise ConfigError(f"unknown {label} {name!r}: {why}") from None
    found: type[Any] = getattr(importlib.import_module(module), cls)
    return found


def create(kind: Kind, config: Any) -> Any:
    """An object from its name, or from a mapping of its name and fields.

    Raises ConfigError naming the field, the value given and what is accepted.
    """
    if isinstance(config, str):
        config = {"name": config}
    if not isinstance(config, Mapping):
        raise ConfigError(f"{kind}: expected a name or a mapping with one, got {shown(config)}")
    given = dict(config)
    name = given.pop("name", None)
    if not isinstance(name, str):
        known = ", ".join(names(kind))
        raise ConfigError(f"{kind}: 'name' is missing in {shown(dict(config))}; known: {known}")
    cls = lookup(kind, name)
    keys = {f.name for f in fields(cls)}
    for field in given:
        if field not in keys:
            raise ConfigError(f"{name}.{field}: unknown key, {suggest(str(field), keys)}")
    try:
        made = TypeAdapter(cls).validate_python(given)
    except ValidationError as error:
        raise ConfigError(explain(error, name, top=cls)) from None
    for field, value in given.items():
        if not finite(value):
            raise ConfigError(f"{name}.{field}: {not_finite(value)}")
    return made


def config(thing: Any, full: bool = False) -> dict[str, Any]:
    """The mapping that builds `thing` again: its name and the fields that differ from defaults, or all."""
    out: dict[str, Any] = {"name": type(thing).name}
    for field in fields(thing):
        value = getattr(thing, field.name)
        default = field.default if field.default is not MISSING else None
        if field.default_factory is not MISSING:
            default = field.default_factory()
        required = field.default is MISSING and field.default_factory is MISSING
        if full or required or value != default:
            out[field.name] = config(value, full) if hasattr(type(value), "name") else _plain(value)
    return out


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


def resolved(thing: Any) -> dict[str, Any]:
    """The mapping that builds `thing` again whatever the defaults become."""
    return config(thing, full=True)


def build(given: Any) -> Any:
    """A codec (of vectors or of data) from its name or mapping. Raises ConfigError."""
    name = given if isinstance(given, str) else given.get("name") if isinstance(given, Mapping) else None
    kind: Kind = "data_codec" if name in REGISTRY["data_codec"] else "codec"
    return create(kind, given)
