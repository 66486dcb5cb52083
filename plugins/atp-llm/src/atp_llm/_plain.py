"""Where documents begin and end in plain text.

1. A ``.raw`` file follows WikiText: one document an article, its rows joined by blank lines.
2. A file with lines ``<doc …>`` is the output of WikiExtractor: one document an element.
3. A file whose lines are long (median over 400 characters) holds one document a line.
4. Any other: paragraphs, gathered into documents of 2,000 characters and more.
"""

from __future__ import annotations

import re
import statistics

__all__ = ["paragraph_groups", "plain_documents", "wikitext_documents"]

LONG_LINE = 400
"""Characters; the median paragraph of prose is well below, the median web page well above."""

GROUP = 2000
"""Characters a document of gathered paragraphs has at least."""

_TITLE = re.compile(r"\s*= [^=].*[^=] =\s*")


def plain_documents(text: str) -> list[str]:
    """Documents of a plain text that is not WikiText, by rules 2 to 4 above."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return []
    if any(line.startswith("<doc ") for line in lines[:10]):
        parts = re.split(r"^<doc [^\n]*>$|^</doc>$", text, flags=re.MULTILINE)
        return [part.strip() for part in parts if part.strip()]
    if statistics.median(map(len, lines)) > LONG_LINE:
        return lines
    return paragraph_groups(text)


def paragraph_groups(text: str) -> list[str]:
    """Consecutive paragraphs, gathered into documents of `GROUP` characters and more.

    A paragraph longer than that (a file without blank lines) is cut at line ends.
    """
    pieces: list[tuple[str, str]] = []  # what separates a piece from the one before it, piece
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if not paragraph.strip():
            continue
        lines = paragraph.split("\n") if len(paragraph) > GROUP else [paragraph]
        pieces += [("\n\n" if i == 0 else "\n", line) for i, line in enumerate(lines)]
    groups: list[str] = []
    for separator, piece in pieces:
        if groups and len(groups[-1]) < GROUP:
            groups[-1] += separator + piece
        else:
            groups.append(piece)
    if len(groups) > 1 and len(groups[-1]) < GROUP // 4:
        groups[-2:] = [groups[-2] + "\n\n" + groups[-1]]
    return groups


def wikitext_rows(text: str) -> list[str]:
    """Rows as the Hugging Face dataset has them: line ends kept, blank lines empty."""
    return [row if row.strip() else "" for row in text.splitlines(keepends=True)]


def wikitext_documents(rows: list[str]) -> list[str]:
    """Articles of WikiText; joining them by a blank line gives the rows joined by blank lines.

    Args:
        rows: the rows of the dataset. What stands before the first title is an article too.
    """
    articles: list[list[str]] = [[]]
    for row in rows:
        if _TITLE.fullmatch(row) and any(articles[-1]):
            articles.append([])
        articles[-1].append(row)
    return ["\n\n".join(article) for article in articles if article]
