"""A text as one HTML page, which needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import count, groupby
from typing import Any, Final

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from ... import __version__
from ..._document import Document, Figure, Part, Section, inlines
from ._svg import inlined

__all__ = ["to_html"]

_TEMPLATE: Final = "page.html.jinja"


def to_html(document: Document, first_line: str) -> str:
    """The text as a page.

    Args:
        document: the text.
        first_line: a comment before everything else, HTML.
    """
    style, script = _file("page.css"), _file("print.js")
    numbers = count(1)

    def drawn(figure: Figure) -> Markup:
        return inlined(figure.draw(), figure.alt, f"f{next(numbers)}-")

    anchors = _anchors(document)
    environment = Environment(
        loader=DictLoader({_TEMPLATE: _file(_TEMPLATE)}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {
            "anchor": lambda section: anchors[id(section)],
            "drawn": drawn,
            "grouped": _grouped,
            "pieces": inlines,
            "tied": _tied,
        }
    )
    page = environment.get_template(_TEMPLATE).render(
        document=document,
        first_line=Markup(first_line),
        sections=[part for part in document.parts if isinstance(part, Section)],
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
    )
    return page.rstrip() + "\n"


def _file(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _grouped(parts: Sequence[Part]) -> list[tuple[bool, list[Any]]]:
    """Parts that a page shows, with drawings that follow each other in one group."""
    shown = [part for part in parts if part.kind != "image"]
    return [(drawn, list(run)) for drawn, run in groupby(shown, lambda p: p.kind == "figure")]


def _tied(text: str) -> str:
    """A text that no line's end parts from a unit, an error or a direction that belongs to it."""
    return re.sub(r" (?=[%↑↓])|(?<=±) ", "\N{NO-BREAK SPACE}", text)


def _anchors(document: Document) -> dict[int, str]:
    """A name for every section, as its address."""
    taken: set[str] = {"content"}
    found: dict[int, str] = {}
    for section in _sections(document.parts):
        name = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        free = next(free for free in _numbered(name) if free not in taken)
        taken.add(free)
        found[id(section)] = free
    return found


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{i}" for i in count(2))


def _sections(parts: Sequence[Part]) -> Iterator[Section]:
    for part in parts:
        if isinstance(part, Section):
            yield part
            yield from _sections(part.parts)
