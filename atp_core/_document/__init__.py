"""What results are told in: the parts of a text, without a word on how it will look.

One text serves a page, a model card and whatever comes, so that they never differ in a figure.
"""

from __future__ import annotations

from .markdown import to_markdown
from .parts import (
    Bullets,
    Code,
    Column,
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
    plain,
)

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
    "to_markdown",
]
