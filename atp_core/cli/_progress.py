"""Progress bars with time left, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..progress import Advance
from ._console import stderr

__all__ = ["Bars", "bars"]


class Bars:
    """Shows each step as a bar; a step that ends leaves nothing behind but its notes."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._console = console

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        """Open a bar of `total` parts."""
        task = self._progress.add_task(title, total=total, at="")
        if not self._console.is_terminal:
            self._console.print(f"{title} …", highlight=False)
        try:
            yield lambda at: self._progress.update(task, advance=1, at=at)
        finally:
            self._progress.remove_task(task)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, highlight=False)


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars for the time of the context."""
    console = stderr()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[at]}", style="dim"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bars(progress, console)
