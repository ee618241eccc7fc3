"""Scenario files to checked scenarios."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import ValidationError
from yaml.composer import ComposerError
from yaml.error import MarkedYAMLError
from yaml.reader import ReaderError

from fedquant.errors import ConfigError, suggest
from fedquant.explain import explain, one_line, shown
from fedquant.scenario.schema import Scenario

Kind = Literal["scenario", "study"]

_TAGS: Final = {"gradient", "delta", "data", "descent"}
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")


class _Loader(yaml.SafeLoader):
    """YAML with the floats of version 1.2 (and so of JSON), too: to version 1.1, 1e-3 is text.

    A mapping has each key once: of two, YAML would keep the last without a word.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                raise ComposerError(problem=f"key {key.value!r} is repeated", problem_mark=key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes texts that `_Loader` would take for floats."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def folder() -> Path:
    """Where the scenarios that come with fedquant lie."""
    installed = Path(str(resources.files("fedquant"))) / "scenarios"
    return installed if installed.is_dir() else installed.parent.parent / "scenarios"


def names(kind: Kind) -> list[str]:
    """Of what comes with fedquant: studies lie in a folder of that name, all else are scenarios."""
    here = folder()
    known = sorted(p.relative_to(here).with_suffix("").as_posix() for p in here.rglob("*.yaml"))
    return [name for name in known if name.startswith("studies/") == (kind == "study")]


def find(name: str | Path, kind: Kind = "scenario") -> Path:
    """The file of a path, or of the name of what comes with fedquant (papers/… and studies/… too).

    kind: what to name in the ConfigError that is raised where neither exists.
    """
    path = Path(name)
    here = folder()
    try:
        if path.is_file():
            return path
        if path.suffix == "" and not path.is_absolute() and (here / f"{path}.yaml").is_file():
            return here / f"{path}.yaml"
    except OSError as error:  # too long
        raise ConfigError(f"{kind} {shown(str(name))} is no file name: {one_line(error)}") from None
    why = suggest(str(name), names(kind))
    raise ConfigError(f"no {kind} file {str(name)!r}, and none of that name: {why}")


def read(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a scenario: a mapping, JSON text, a path, or the name of one that ships."""
    if isinstance(source, Mapping):
        return dict(source)
    if not isinstance(source, str | Path):
        raise ConfigError(
            f"scenario: expected the name of one, a path, JSON text or a mapping, got {shown(source)}"
        )
    if isinstance(source, str) and source.lstrip().startswith("{"):
        text, label = source, "scenario JSON"
    else:
        path = find(source)
        label = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{label}: {one_line(error)}") from None
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
    except MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigError(f"{label}{where}: {problem}") from None
    except ReaderError as error:
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise ConfigError(f"{label}: U+{code:04X} at position {error.position}: {error.reason}") from None
    except ValueError as error:  # a date such as 2020-13-01
        raise ConfigError(f"{label}: {one_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{label}: brackets or keys are nested too deeply") from None


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
        raise ConfigError(explain(error, tags=_TAGS, top=Scenario)) from None
