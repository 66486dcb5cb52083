"""Runs as one page, or as Markdown for a model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

from ..._document import to_markdown
from ...checkpoint import atomic_write_text
from ...errors import UsageError
from ._contents import compose
from ._private import printable
from ._run import Run, read_runs

__all__ = ["Format", "Run", "check_page", "page_text", "read_runs", "write_page"]

Format: TypeAlias = Literal["html", "markdown"]

_MARK: Final = "<!-- made by atp report -->"
"""What a page begins with, so that a later one may replace it."""


def page_text(
    runs: Sequence[Run],
    format: Format = "html",
    *,
    title: str | None = None,
    images: bool = False,
) -> str:
    """The page about one run, or about several side by side.

    The same runs give the same text, to the byte.

    Args:
        runs: at least one, from `read_runs`.
        format: "html" is a page that needs nothing but itself; "markdown" has no drawings.
        title: of the page; None makes one.
        images: the Markdown of a single run shows the figures in its directory, beside which it
            will stand.
    """
    if not (images and len(runs) == 1):
        runs = [replace(run, images=()) for run in runs]
    document = compose(runs, printable(title) if title else None)
    if format == "markdown":
        return f"{_MARK}\n\n{to_markdown(document)}"
    from ._html import to_html

    return to_html(document, _MARK)


def check_page(path: Path) -> None:
    """Refuse a file that must not be written.

    Raises:
        UsageError: it is a directory or in none, or `atp report` did not write what is there.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a directory; give the name of a file, e.g. {path}/report.html")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}; make it first")
    if path.exists() and not _ours(path):
        raise UsageError(
            f"{path} exists and `atp report` did not write it, so it is left alone; choose another "
            "name, or remove it yourself"
        )


def write_page(text: str, path: Path) -> None:
    """Write a page, in the place of an earlier one if there is one.

    Args:
        text: what `page_text` gave.
        path: the file.

    Raises:
        UsageError: the file must not, or cannot, be written.
        DataError: the disk is full.
    """
    check_page(path)
    atomic_write_text(path, text)


def _ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _MARK.encode() in file.read(200)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
