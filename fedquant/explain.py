"""Users' mistakes in configurations, told in one line each: where, what was given, what was expected."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final, get_args, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedquant.errors import suggest

_SHOWN: Final = 80  # characters of a value
_REQUIRED: Final = "Field required"
_EXPECTED: Final = "Input should be "
_NO_MAPPING: Final = {"dict_type", "model_type", "model_attributes_type", "dataclass_type"}
_MEMBER: Final = re.compile(r"(constrained-)?(int|float|str|bool)|\w+\[.*\]")
"""What pydantic calls the member of a union that it tried, as if it were a key."""


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
