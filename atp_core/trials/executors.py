"""Executors that ship with core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from . import Trial

__all__ = ["Local"]


C = TypeVar("C")


class Local:
    """Runs trials one after another in this process, on the model that is already loaded."""

    name = "local"

    def run(self, judge: Callable[[C], Trial], candidates: Sequence[C]) -> Iterator[Trial]:
        """Judge the candidates in order."""
        for candidate in candidates:
            yield judge(candidate)
