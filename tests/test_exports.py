"""`__all__` of every module is sorted, has no duplicates, and leaves nothing public out."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT, *sorted(ROOT.glob("plugins/*/src"))]
PACKAGES = [
    init.parent for source in SOURCES for init in sorted(source.glob("atp_*/__init__.py"))
]
MODULES = [
    (package.parent, path) for package in PACKAGES for path in sorted(package.rglob("*.py"))
]


def name_of(source: Path, path: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_public(name: str) -> bool:
    return not any(part.startswith("_") for part in name.split("."))


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["__all__"]:
            found: list[str] = ast.literal_eval(node.value)
            return found
    return None


def defined(tree: ast.Module) -> Iterator[str]:
    """Public functions, classes, constants and named types that a module defines itself."""
    for node in tree.body:
        names: list[str] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # pluggy reads hook specifications off the module; nobody imports them.
            if "hookspec" not in ast.unparse(ast.Tuple(elts=node.decorator_list, ctx=ast.Load())):
                names = [node.name]
        elif isinstance(node, ast.ClassDef):
            names = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            # Lower case is a shorthand, a single letter a type variable: the module's own.
            names = [n for n in map(ast.unparse, targets) if n[0].isupper() and len(n) > 1]
        yield from (name for name in names if name.isidentifier() and not name.startswith("_"))


def order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest: the order that ruff's RUF022 keeps."""
    if name.isupper() and len(name) > 1:
        return 0, name
    return (1 if name[0].isupper() else 2), name


@pytest.mark.parametrize(
    ("source", "path"), MODULES, ids=[name_of(source, path) for source, path in MODULES]
)
def test_exports(source: Path, path: Path) -> None:
    name = name_of(source, path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = exported(tree)
    public = set(defined(tree))
    if names is None:
        assert not public, f"{name} defines {sorted(public)} and has no __all__"
        return
    assert names == sorted(set(names), key=order), f"__all__ of {name} is not sorted"
    if is_public(name):
        missing = sorted(public - set(names))
        assert not missing, f"__all__ of {name} lacks {missing}; or they want an underscore"


@pytest.mark.parametrize(
    "name", [name_of(p.parent, p / "__init__.py") for p in PACKAGES], ids=str
)
def test_everything_exported_exists(name: str) -> None:
    module = importlib.import_module(name)
    assert all(hasattr(module, exported_name) for exported_name in module.__all__)
