"""Whether matrices share memory, against the sets of elements they cover."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atp_core._overlap import Lattice, overlapping

MEMORY = torch.empty(256)


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    """A matrix somewhere in the memory: transposed or not, rows and columns of it."""
    rows, columns = draw(st.sampled_from([(6, 8), (8, 6), (4, 12), (12, 4), (1, 9), (9, 1)]))
    start = draw(st.sampled_from([0, 0, 3, 7, 12, 48]))
    found = MEMORY[start : start + rows * columns].view(rows, columns)
    if draw(st.booleans()):
        found = found.transpose(0, 1)
    for side in range(2):
        if draw(st.booleans()):
            first = draw(st.integers(0, found.shape[side] - 1))
            count = draw(st.integers(1, found.shape[side] - first))
            found = found.narrow(side, first, count)
    step = draw(st.sampled_from([1, 1, 2, 3]))
    return found[:, ::step]


def elements(matrix: torch.Tensor) -> set[int]:
    return {
        matrix.storage_offset() + i * matrix.stride(0) + j * matrix.stride(1)
        for i in range(matrix.shape[0])
        for j in range(matrix.shape[1])
    }


@settings(max_examples=2000, deadline=None)
@given(matrices(), matrices())
def test_two_matrices(one: torch.Tensor, other: torch.Tensor) -> None:
    shared = bool(elements(one) & elements(other))
    assert Lattice.of(one).meets(Lattice.of(other)) is shared
    assert Lattice.of(other).meets(Lattice.of(one)) is shared


@settings(max_examples=300, deadline=None)
@given(st.lists(matrices(), max_size=8))
def test_many_matrices(found: list[torch.Tensor]) -> None:
    pairs = overlapping([(Lattice.of(matrix), i) for i, matrix in enumerate(found)])
    told = sorted(tuple(sorted(pair)) for pair in pairs)
    assert told == [
        (i, j)
        for i, one in enumerate(found)
        for j, other in enumerate(found)
        if i < j and elements(one) & elements(other)
    ]


def test_where_lines_run_into_each_other_nothing_is_claimed() -> None:
    tangled = MEMORY.as_strided((3, 4), (2, 3), 0)
    assert not Lattice.of(tangled).meets(Lattice.of(MEMORY.as_strided((2, 2), (2, 5), 1)))
