"""Names in YAML to classes, and back. A new codec, selection or task is one line here."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Final, Literal, get_args, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from fedquant.errors import ConfigError, suggest

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

_SHOWN: Final = 80  # characters of a value
_REQUIRED: Final = "Field required"
_EXPECTED: Final = "Input should be "
_NO_MAPPING: Final = {"dict_type", "model_type", "model_attributes_type", "dataclass_type"}
_MEMBER: Final = re.compile(r"(constrained-)?(int|float|str|bool)|\w+\[.*\]")
"""What pydantic calls the member of a union that it tried, as if it were a key."""


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


def explain(
    error: ValidationError, root: str = "", tags: Collection[str] = (), top: type[Any] | None = None
) -> str:
    """One line a mistake: the key's path (without tags of unions), what is wrong, the value given.

    top: the class that was validated, whose keys a mistyped one is compared with.
    """
    mistakes: dict[Any, list[tuple[list[str], ErrorDetails]]] = {}
    for n, item in enumerate(error.errors(include_url=False)):
        loc = [str(p) for p in item["loc"] if p not in tags]
        path = [p for p in loc if not _MEMBER.fullmatch(p)]
        # All that the members of a union have to say of one value is one mistake.
        at = next((i for i, p in enumerate(loc) if _MEMBER.fullmatch(p)), None)
        mistakes.setdefault(n if at is None else tuple(loc[:at]), []).append((path, item))
    lines = []
    for found in mistakes.values():
        deepest = max(len(path) for path, _ in found)  # the member that the value fits best
        path = next(path for path, _ in found if len(path) == deepest)
        items = [item for path, item in found if len(path) == deepest]
        more, text = _wrong(items, path, sorted(tags), top)
        # What a class says of itself as a whole names itself already.
        where = ".".join(p for p in (root if items[0]["loc"] else "", *path, *more) if p)
        lines += [f"{where}: {line}" if where else line for line in text.splitlines()]
    return "\n".join(lines)


def _wrong(
    items: Sequence[ErrorDetails], path: Sequence[str], tags: Sequence[str], top: type[Any] | None
) -> tuple[list[str], str]:
    """(the rest of the path, what is wrong) by one error, or by one of each member of a union."""
    item, context = items[0], items[0].get("ctx", {})
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        key = context["discriminator"].strip("'")
        if item["type"] == "union_tag_not_found":
            return [key], f"{_REQUIRED}, known: {', '.join(tags)}"
        return [key], f"unknown {key} {context['tag']!r}: {suggest(context['tag'], tags)}"
    if item["type"] == "unexpected_keyword_argument":
        return [], f"unknown key, {suggest(path[-1], _known(top, path))}"
    if item["type"] == "missing":
        return [], _REQUIRED
    if "error" in context:
        return [], str(context["error"])
    if item["type"] in _NO_MAPPING:
        return [], f"expected a mapping of keys, got {shown(item['input'])}"
    # Of one or a list of them, one is what is meant by a value that is no list.
    items = [each for each in items if each["type"] != "tuple_type"] or items
    texts = dict.fromkeys(each["msg"].partition(", unable to parse")[0] for each in items)
    first, *others = texts
    text = ", or ".join([first, *(text.removeprefix(_EXPECTED) for text in others)])
    return [], f"{text}, got {shown(item['input'])}"


def _known(top: type[Any] | None, path: Sequence[str]) -> set[str]:
    """The keys beside the last one of a path, which begins in the class `top`."""
    classes = [] if top is None else [top]
    for step in path[:-1]:
        classes = [found for cls in classes for found in _classes(get_type_hints(cls).get(step))]
    return {field.name for cls in classes if is_dataclass(cls) for field in fields(cls)}


def _classes(hint: Any) -> list[type[Any]]:
    """The classes with keys in a type."""
    if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, BaseModel)):
        return [hint]
    return [cls for part in get_args(hint) for cls in _classes(part)]


def finite(value: Any) -> bool:
    """Whether neither NaN nor infinity is in it: JSON, which tells nodes of a run, would drop them."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def not_finite(value: Any) -> str:
    """What to say of it else."""
    what = "a finite number" if isinstance(value, float) else "finite numbers"
    return f"expected {what}, got {shown(value)}"


def shown(value: Any) -> str:
    """A value that was given, as a message quotes it: not much of a long one."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def one_line(error: object) -> str:
    """What a library's error says, its lines joined."""
    return " ".join(str(error).split())


def build(given: Any) -> Any:
    """A codec (of vectors or of data) from its name or mapping. Raises ConfigError."""
    name = given if isinstance(given, str) else given.get("name") if isinstance(given, Mapping) else None
    kind: Kind = "data_codec" if name in REGISTRY["data_codec"] else "codec"
    return create(kind, given)
