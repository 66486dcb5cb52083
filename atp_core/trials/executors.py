"""Executors that ship with core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

__all__ = ["Local"]


J = TypeVar("J")
R = TypeVar("R")


class Local:
    """Does jobs one after another in this process, on the model that is already loaded."""

    name = "local"

    def run(self, work: Callable[[J], R], jobs: Sequence[J]) -> Iterator[tuple[int, R]]:
        """Do the jobs in order."""
        for position, job in enumerate(jobs):
            yield position, work(job)
