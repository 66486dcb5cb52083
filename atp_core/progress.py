"""Progress of long steps, kept apart from how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Advance", "NullProgress", "Progress"]

Advance = Callable[[str], None]
"""Called after each step with a short description of it."""


class Progress(Protocol):
    """Shows how far long steps are."""

    def task(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Open a step of `total` parts; the value of the context advances it by one part."""

    def note(self, text: str) -> None:
        """Tell the user something worth a line of its own."""


class NullProgress:
    """Shows nothing."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        """Open a silent step."""
        yield lambda _: None

    def note(self, text: str) -> None:
        """Drop the note."""
