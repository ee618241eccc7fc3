"""Scenario files to checked scenarios."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from fedquant.errors import ConfigError, suggest
from fedquant.registry import explain
from fedquant.scenario.schema import Scenario

_TAGS = {"gradient", "delta", "data", "descent"}
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")


class _Loader(yaml.SafeLoader):
    """YAML with the floats of version 1.2 (and so of JSON), too: to version 1.1, 1e-3 is text."""


class _Dumper(yaml.SafeDumper):
    """Quotes texts that `_Loader` would take for floats."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def folder() -> Path:
    """Where the scenarios that come with fedquant lie."""
    installed = Path(str(resources.files("fedquant"))) / "scenarios"
    return installed if installed.is_dir() else installed.parent.parent / "scenarios"


def find(name: str | Path) -> Path:
    """The file of a path, or of the name of a scenario that comes with fedquant (papers/… too).

    Raises ConfigError where neither exists.
    """
    path = Path(name)
    if path.is_file():
        return path
    here = folder()
    if path.suffix == "" and not path.is_absolute() and (here / f"{path}.yaml").is_file():
        return here / f"{path}.yaml"
    known = [p.relative_to(here).with_suffix("").as_posix() for p in here.rglob("*.yaml")]
    raise ConfigError(f"no scenario file {str(name)!r}, and none of that name: {suggest(str(name), known)}")


def read(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a scenario: a mapping, JSON text, a path, or the name of one that ships."""
    if isinstance(source, Mapping):
        return dict(source)
    if isinstance(source, str) and source.lstrip().startswith("{"):
        text, label = source, "scenario JSON"
    else:
        path = find(source)
        label = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{label}: {error}") from None
    values = _parse(text, label)
    if not isinstance(values, dict):
        got = "nothing" if values is None else type(values).__name__
        raise ConfigError(
            f"{label}: expected a mapping of keys, got {got}; write a line 'key: value' for each key"
        )
    return values


def dump(scenario: Scenario) -> str:
    """The YAML of a resolved scenario."""
    text: str = yaml.dump(scenario.to_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _parse(text: str, label: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2020-13-01 is a ValueError
        raise ConfigError(f"{label}: {error}") from None


def override(values: Mapping[str, Any], changes: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    """Values with changes made: {"a.b": value}, or texts like "a.b=value" with the value in YAML.

    A mapping replaces a mapping whole, so that a codec's keys never mix with another codec's.
    """
    out = copy.deepcopy(dict(values))
    pairs = changes if isinstance(changes, Mapping) else parse_changes(changes)
    for path, value in pairs.items():
        *parents, last = path.split(".")
        node = out
        for parent in parents:
            inside = node.get(parent, {})
            if isinstance(inside, str):  # a bare name stands for {name: …}
                inside = {"name": inside}
            if not isinstance(inside, dict):
                raise ConfigError(f"--set {path}: {parent} is {inside!r}, it has no keys")
            node[parent] = inside
            node = inside
        node[last] = value
    return out


def parse_changes(texts: Iterable[str]) -> dict[str, Any]:
    """Texts like "a.b=value", the value in YAML, by path. Raises ConfigError."""
    return dict(_split(text) for text in texts)


def _split(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {text!r}: expected key.path=value")
    return path.strip(), _parse(value, f"--set {text!r}: the value is not YAML")


def load(
    source: str | Path | Mapping[str, Any] | Scenario, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> Scenario:
    """The checked scenario. Raises ConfigError: one line a mistake, with the key's path and the value."""
    values = source.to_dict() if isinstance(source, Scenario) else read(source)
    if "schemes" in values:
        name = "this" if isinstance(source, Mapping) else str(source)
        raise ConfigError(f"{name} is a study, not a scenario; use `fedquant compare {name}`")
    try:
        return Scenario.model_validate(override(values, overrides))
    except ValidationError as error:
        raise ConfigError(explain(error, tags=_TAGS)) from None
