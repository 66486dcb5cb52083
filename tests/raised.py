"""The messages that the code can give, read from its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Template", "templates"]

# Less text than this says nothing about where a message comes from.
_TELLING = 12


@dataclass(frozen=True)
class Template:
    """The form of a message.

    Attributes:
        error: class of the error that is made with it; empty where it is put together elsewhere.
        pattern: matches the messages.
    """

    error: str
    pattern: re.Pattern[str]


def templates(files: Iterable[Path]) -> Iterator[Template]:
    """Every string in the files that is long enough to be told by, with its error."""
    for file in files:
        tree = ast.parse(file.read_text("utf-8"))
        owned: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                for argument in node.args[:1] if node.func.id.endswith("Error") else ():
                    owned |= {id(inner) for inner in ast.walk(argument)}
                    yield from _template(node.func.id, argument)
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                owned |= {id(inner) for inner in node.values}
            if id(node) not in owned and isinstance(node, ast.Constant | ast.JoinedStr):
                yield from _template("", node)


def _template(error: str, node: ast.expr) -> Iterator[Template]:
    pieces = list(_pieces(node))
    if sum(len(piece) for piece in pieces if piece is not None) >= _TELLING:
        parts = (".*" if piece is None else re.escape(piece) for piece in pieces)
        yield Template(error, re.compile("".join(parts), re.S))


def _pieces(node: ast.expr) -> Iterator[str | None]:
    """Text as it stands; None for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield value.value if isinstance(value, ast.Constant) else None
    elif isinstance(node, ast.BinOp):
        yield from _pieces(node.left)
        yield from _pieces(node.right)
    else:
        yield None
