"""The parts of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

__all__ = [
    "Bullets",
    "Code",
    "Column",
    "Details",
    "Document",
    "Facts",
    "Figure",
    "Image",
    "Inline",
    "Link",
    "Listing",
    "Paragraph",
    "Part",
    "Section",
    "Strong",
    "Table",
    "Text",
    "inlines",
    "plain",
]

# --- inside a line -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Code:
    """A name or a command, as a machine spells it."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Strong:
    """Words that matter most."""

    text: str
    kind: ClassVar[str] = "strong"


@dataclass(frozen=True)
class Link:
    """Words that lead to an address."""

    text: str
    target: str
    kind: ClassVar[str] = "link"


Inline: TypeAlias = str | Code | Strong | Link

Text: TypeAlias = Inline | Sequence[Inline]


def inlines(text: Text) -> Sequence[Inline]:
    """The pieces of a text."""
    return [text] if isinstance(text, (str, Code, Strong, Link)) else text


def plain(text: Text) -> str:
    """A text without its marks."""
    return "".join(piece if isinstance(piece, str) else piece.text for piece in inlines(text))


# --- on lines of their own -----------------------------------------------------------------------


@dataclass(frozen=True)
class Paragraph:
    """Sentences."""

    text: Text
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Bullets:
    """Several remarks of one sort."""

    items: Sequence[Text]
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Facts:
    """Terms, and what they are here."""

    rows: Sequence[tuple[str, Text]]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its head.
        numeric: it holds figures, which are set flush right.
    """

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows; "" where the words before it say so.
        columns: from left to right.
        rows: a text for every column.
        header: which column, from 0, names the rows.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Text]]
    header: int = 0
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A drawing that is part of the text; where a text cannot hold one, it is told in words.

    Attributes:
        caption: what it shows and how to read it.
        alt: what one sees in it, for those who do not see it.
        draw: gives it as SVG.
    """

    caption: str
    alt: str
    draw: Callable[[], str]
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Image:
    """A drawing in a file beside the text, for texts that cannot hold one.

    Attributes:
        file: its name.
        alt: what it shows.
    """

    file: str
    alt: str
    kind: ClassVar[str] = "image"


@dataclass(frozen=True)
class Listing:
    """Commands or a file, word for word.

    Attributes:
        text: the words.
        language: what it is written in, e.g. "sh".
        title: what it is, for those who do not see it.
    """

    text: str
    language: str
    title: str = "Listing"
    kind: ClassVar[str] = "listing"


@dataclass(frozen=True)
class Details:
    """What few readers need, folded away under its summary."""

    summary: str
    parts: Sequence[Part]
    kind: ClassVar[str] = "details"


@dataclass(frozen=True)
class Section:
    """Parts under a heading."""

    title: str
    parts: Sequence[Part]
    kind: ClassVar[str] = "section"


Part: TypeAlias = Paragraph | Bullets | Facts | Table | Figure | Image | Listing | Details | Section


@dataclass(frozen=True)
class Document:
    """A whole text.

    Attributes:
        title: its heading.
        parts: sections, and what comes before them.
    """

    title: str
    parts: Sequence[Part]
