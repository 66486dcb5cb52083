"""A text as Markdown, in the dialect of code hosts and model hubs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from urllib.parse import quote

from .parts import (
    Bullets,
    Code,
    Details,
    Document,
    Facts,
    Figure,
    Image,
    Inline,
    Link,
    Listing,
    Paragraph,
    Part,
    Section,
    Strong,
    Table,
    Text,
    inlines,
)

__all__ = ["to_markdown"]

# Square brackets end the words of an image.
_ROUND = str.maketrans("[]", "()")


def to_markdown(document: Document) -> str:
    """The text as Markdown. Drawings are told in words; their files are shown where it has them."""
    return "\n\n".join([f"# {_line(document.title)}", *_parts(document.parts, 2)]) + "\n"


def _parts(parts: Sequence[Part], level: int) -> Iterator[str]:
    for part in parts:
        yield from _part(part, level)


def _part(part: Part, level: int) -> Iterator[str]:
    match part:
        case Paragraph():
            yield _line(part.text)
        case Bullets():
            yield "\n".join(f"- {_line(item)}" for item in part.items)
        case Facts():
            yield "\n".join(f"- **{_line(term)}**: {_line(fact)}" for term, fact in part.rows)
        case Table():
            yield from _table(part)
        case Figure():
            yield f"{_line(part.caption)} {_line(part.alt)}"
        case Image():
            yield f"![{_line(part.alt.translate(_ROUND))}]({quote(part.file)})"
        case Listing():
            fence = _fence(part.text, 3)
            yield f"{fence}{part.language}\n{part.text.rstrip()}\n{fence}"
        case Details():
            # The line is HTML, in which Markdown's own marks stand for themselves.
            yield f"<details>\n<summary>{escape(part.summary, quote=False)}</summary>"
            yield from _parts(part.parts, level)
            yield "</details>"
        case Section():
            yield f"{'#' * min(level, 6)} {_line(part.title)}"
            yield from _parts(part.parts, level + 1)


def _table(table: Table) -> Iterator[str]:
    if table.caption:
        yield f"**{_line(table.caption)}**"
    rule = "|".join("---:" if column.numeric else "---" for column in table.columns)
    head, *rows = (
        "| " + " | ".join(_cell(text) for text in row) + " |"
        for row in ([column.title for column in table.columns], *table.rows)
    )
    yield "\n".join([head, f"|{rule}|", *rows])


# --- inside a line -------------------------------------------------------------------------------


def _cell(text: Text) -> str:
    # A bar ends a cell, in code as well; elsewhere in code, a backslash would show.
    return "".join(
        _inline(piece).replace("|", "\\|") if isinstance(piece, Code) else _inline(piece)
        for piece in inlines(text)
    )


def _line(text: Text) -> str:
    return "".join(_inline(piece) for piece in inlines(text))


def _inline(piece: Inline) -> str:
    match piece:
        case Code():
            code = " ".join(piece.text.split())
            fence = _fence(code, 1)
            space = " " if code[:1] == "`" or code[-1:] == "`" else ""
            return f"{fence}{space}{code}{space}{fence}" if code else ""
        case Strong():
            return f"**{_escape(piece.text)}**"
        case Link():
            return f"[{_escape(piece.text)}]({piece.target})"
        case _:
            return _escape(piece)


def _fence(text: str, least: int) -> str:
    """More backticks than stand together in `text`."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)


def _escape(text: str) -> str:
    """Text on one line that says what it says, and does nothing."""
    # Spaces at the ends part it from its neighbours.
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"([\\`*|])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    text = text.replace("](", "]\\(")
    return re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;")
