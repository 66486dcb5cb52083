"""Whether two matrices share memory, worked out from where they lie and without reading any."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = ["Lattice", "overlapping"]

T = TypeVar("T")


@dataclass(frozen=True)
class Lattice:
    """The elements of a storage that a matrix covers: first + i · outer + j · inner.

    Attributes:
        first: the first element.
        outer: distance between lines, the larger of the two strides.
        inner: distance between the elements of a line.
        lines: how many lines.
        width: elements of a line.
    """

    first: int
    outer: int
    inner: int
    lines: int
    width: int

    @classmethod
    def of(cls, matrix: torch.Tensor) -> Lattice:
        """Where a 2-D tensor lies in its storage; it has elements and repeats none."""
        first = int(matrix.storage_offset())
        # The stride of a side of one element says nothing.
        sides = [(s, n) for s, n in zip(matrix.stride(), matrix.shape, strict=True) if n > 1]
        if len(sides) == 2:
            (inner, width), (outer, lines) = sorted(sides)
            return cls(first, outer, inner, lines, width)
        stride, count = sides[0] if sides else (1, 1)
        if stride == 1:
            return cls(first, count, 1, 1, count)
        return cls(first, stride, 1, count, 1)

    @property
    def extent(self) -> int:
        """From the first to the last element of a line, not counting the last."""
        return (self.width - 1) * self.inner

    @property
    def last(self) -> int:
        """The last element."""
        return self.first + (self.lines - 1) * self.outer + self.extent

    @property
    def dense(self) -> bool:
        """Whether every element from the first to the last belongs to it."""
        return self.lines * self.width == self.last - self.first + 1

    def meets(self, other: Lattice) -> bool:
        """Whether both cover an element.

        Where a line begins before the one above it ends, as in no layout of weights, nothing is
        claimed.
        """
        if self.last < other.first or other.last < self.first:
            return False
        if self.dense and other.dense:
            return True
        if self.extent >= self.outer or other.extent >= other.outer:
            return False
        if (self.outer, self.inner) == (other.outer, other.inner):
            return self._meets_alike(other)
        return self._meets_line_by_line(other)

    def _meets_alike(self, other: Lattice) -> bool:
        """Rectangles in a plane of lines, whose origin is the first element of this one."""
        line, place = divmod(other.first - self.first, self.outer)
        # Lines of the other may run over the end of the plane's; the rest begins the next.
        fitting = min(other.width, -((place - self.outer) // self.inner))
        parts = [(line, place, fitting)]
        if fitting < other.width:
            rest = place + fitting * self.inner - self.outer
            parts.append((line + 1, rest, other.width - fitting))
        return any(
            top < self.lines
            and top + other.lines > 0
            and left % self.inner == 0
            and left <= self.extent
            and left + (width - 1) * self.inner >= 0
            for top, left, width in parts
        )

    def _meets_line_by_line(self, other: Lattice) -> bool:
        i = j = 0
        while i < self.lines and j < other.lines:
            mine, theirs = self._line(i), other._line(j)
            if mine[-1] >= theirs[0] and theirs[-1] >= mine[0] and _common(mine, theirs):
                return True
            if mine[-1] < theirs[-1]:
                i += 1
            else:
                j += 1
        return False

    def _line(self, i: int) -> range:
        start = self.first + i * self.outer
        return range(start, start + self.extent + 1, self.inner)


def _common(a: range, b: range) -> bool:
    """Whether two ranges share a number."""
    shared = math.gcd(a.step, b.step)
    away, rest = divmod(b.start - a.start, shared)
    if rest:
        return False
    modulus = b.step // shared
    # The first number from a.start on that is in step with both.
    first = a.start + away * pow(a.step // shared, -1, modulus) % modulus * a.step
    period = a.step * modulus
    first += max(0, -((first - b.start) // period)) * period
    return first <= min(a[-1], b[-1])


def overlapping(placed: Sequence[tuple[Lattice, T]]) -> Iterator[tuple[T, T]]:
    """Pairs that share an element, of lattices in one storage."""
    open_: list[tuple[Lattice, T]] = []
    for lattice, owner in sorted(placed, key=lambda pair: pair[0].first):
        open_ = [pair for pair in open_ if pair[0].last >= lattice.first]
        for other, known in open_:
            if other.meets(lattice):
                yield known, owner
        open_.append((lattice, owner))
