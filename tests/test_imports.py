from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [p for folder in ("fedquant", "strategies", "clients") for p in sorted((ROOT / folder).rglob("*.py"))]


def absolute(node: ast.AST, package: str) -> list[str]:
    """The packages that an import statement names."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if isinstance(node, ast.ImportFrom):
        return [package if node.level else node.module or ""]
    return []


def on_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """What runs when a module is imported: no function's body, nothing for type checkers alone."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from on_import(node.orelse)
            continue
        yield node
        for name in ("body", "orelse", "finalbody"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):
                yield from on_import(inner)
        for handler in getattr(node, "handlers", []):
            yield from on_import(handler.body)


def top_level(text: str, package: str) -> set[str]:
    nodes = on_import(ast.parse(text).body)
    return {name.split(".")[0] for node in nodes for name in absolute(node, package)}


def anywhere(text: str, package: str) -> set[str]:
    nodes = ast.walk(ast.parse(text))
    return {name.split(".")[0] for node in nodes for name in absolute(node, package)}


def test_the_walk_sees_what_it_should() -> None:
    text = """
import a.b
from c.d import e
from . import f
if TYPE_CHECKING:
    import typed
else:
    import g
try:
    import h
except ImportError:
    import i
class K:
    import j
def later():
    import late
"""
    assert top_level(text, "own") == {"a", "c", "own", "g", "h", "i", "j"}
    assert anywhere(text, "own") == {"a", "c", "own", "g", "h", "i", "j", "typed", "late"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    relative = path.relative_to(ROOT)
    package, text = relative.parts[0], path.read_text(encoding="utf-8")
    if package == "fedquant":
        assert not top_level(text, package) & {"flwr", "strategies", "clients"}
        if relative.parts[1] != "tasks":
            assert "torch" not in top_level(text, package)
    else:
        other = {"strategies": "clients", "clients": "strategies"}[package]
        assert other not in anywhere(text, package)
    assert "pickle" not in anywhere(text, package)
