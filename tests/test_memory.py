"""What a streamed run takes in memory, and how its activations are held."""

from __future__ import annotations

import pytest
import torch
from tiny import TinyModel, chains_of

from atp_core._memory import MemoryNeed, memory_need, room_for
from atp_core.errors import UsageError
from atp_core.loading import meta_copy
from atp_core.methods.magnitude import Magnitude
from atp_core.methods.sparsegpt import SparseGPT
from atp_core.methods.wanda import Wanda

NEED = MemoryNeed({"the largest block": 700, "statistics": 100}, activations=2000, batch=50)


def test_parts_are_those_of_the_model() -> None:
    model = TinyModel(blocks=3, width=8, vocabulary=32).to(torch.bfloat16)
    empty = meta_copy(model)
    chains = chains_of(empty)  # type: ignore[arg-type]

    def need(method: object, samples: int = 5) -> MemoryNeed:
        return memory_need(
            empty,
            chains,
            method,  # type: ignore[arg-type]
            samples=samples,
            seqlen=16,
            batch_size=2,
            compares=False,
        )

    found = need(Wanda())
    # Three 8 × 8 projections, a bias of 8, and two stacks of 2 × 12 × 8, 2 bytes each.
    assert found.parts["the largest block"] == 2 * (3 * 64 + 8 + 2 * 2 * 12 * 8)
    # The head has a bias of 32 beside its 8 × 32.
    assert found.parts["the largest part outside blocks"] == 2 * (8 * 32 + 32)
    # Five inputs 8 wide, and two stacks' experts: 8 wide in, and 12 wide back.
    widths = [8, 8, 8, 8, 8, 12, 12]
    assert found.parts["statistics"] == 4 * sum(widths)
    assert found.batch == 2 * 16 * 8 * 2
    assert found.activations == int(1.1 * 5 * 16 * 8 * 2)
    assert need(SparseGPT()).parts["statistics"] == 4 * sum(width**2 for width in widths)
    assert need(Magnitude(), samples=0).parts["statistics"] == 0
    assert need(Magnitude(), samples=0).activations == 0


class Greedy(Magnitude):
    """A method that takes much memory a weight."""

    def __init__(self, work_bytes: int) -> None:
        self.work_bytes = work_bytes


def test_a_method_says_what_it_takes() -> None:
    model = TinyModel()
    one, more = (
        memory_need(
            model,
            chains_of(model),
            Greedy(work_bytes),
            samples=1,
            seqlen=1,
            batch_size=1,
            compares=False,
        ).parts["work on a weight or batch"]
        for work_bytes in (1000, 1500)
    )
    assert more - one == 500 * 12 * 8  # the largest weight


def test_activations_wait_where_there_is_room() -> None:
    assert NEED.least == 800 + 3 * 50
    roomy = room_for(NEED, 5000)
    assert (roomy.on_disk, roomy.room, roomy.peak) == (False, 5000 - NEED.least, NEED.most)
    tight = room_for(NEED, 1000)
    assert (tight.on_disk, tight.room, tight.peak) == (True, None, NEED.least)
    with pytest.raises(UsageError, match=r"at least .* \(the largest block .*, activations"):
        room_for(NEED, NEED.least - 1)
