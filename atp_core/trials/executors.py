"""Executors that ship with core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from . import Trial

__all__ = ["Local"]


class Local:
    """Runs trials one after another in this process, on the model that is already loaded."""

    name = "local"

    def run(self, judge: Callable[[float], Trial], candidates: Sequence[float]) -> Iterator[Trial]:
        """Judge the candidates in order."""
        for beta in candidates:
            yield judge(beta)
