"""The staircase on figures that can be worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from atp_core.allocation import AllocationRequest
from atp_core.errors import UsageError
from atp_core.records import Block, Chain, PrunableWeight
from torch import nn

from atp_ria_staircase._staircase import Staircase


def chain(*sizes: int) -> Chain:
    """Blocks of one matrix each, `size` x 10."""
    blocks = []
    for i, size in enumerate(sizes):
        layer = nn.Linear(10, size, bias=False)
        blocks.append(Block(f"blocks.{i}", layer, [PrunableWeight(f"blocks.{i}.weight", layer)]))
    return Chain("main", blocks)


def rates(sizes: list[int], target: float, **options: Any) -> list[float]:
    made = chain(*sizes)
    return Staircase().allocate(AllocationRequest([made], {"main": target}, options)).of(made)


def test_thirds_of_equal_blocks() -> None:
    assert rates([4] * 6, 0.6) == pytest.approx([0.55, 0.55, 0.6, 0.6, 0.65, 0.65])
    assert rates([4] * 3, 0.6, step=0.2) == pytest.approx([0.4, 0.6, 0.8])


def test_groups_differ_by_one_block_where_thirds_do_not_come_out() -> None:
    # Two, two and one: the mean of the steps is 0.8 of 0.1, so the first rate is 0.6 - 0.08.
    assert rates([4] * 5, 0.6, step=0.1) == pytest.approx([0.52, 0.52, 0.62, 0.62, 0.72])


def test_large_blocks_weigh_more() -> None:
    # b + (0.1·1 + 0.2·2) / 4 = 0.5 with sizes 1, 1 and 2: b = 0.375.
    assert rates([10, 10, 20], 0.5, step=0.1) == pytest.approx([0.375, 0.475, 0.575])


@pytest.mark.parametrize(("target", "step"), [(0.02, 0.02), (0.98, 0.02), (0.0, 0.0), (1.0, 0.0)])
def test_the_step_stays_legal(target: float, step: float) -> None:
    found = rates([4] * 3, target)
    assert found == pytest.approx([target - step, target, target + step])


@pytest.mark.parametrize("blocks", [1, 2])
def test_fewer_blocks_than_steps(blocks: int) -> None:
    found = rates([4] * blocks, 0.5)
    assert sum(found) / blocks == pytest.approx(0.5)
    assert found == sorted(found)


@pytest.mark.parametrize("options", [{"beta": 0.1}, {"step": -0.1}, {"step": 0.6}, {"step": "a"}])
def test_options_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="step"):
        rates([4] * 3, 0.5, **options)
