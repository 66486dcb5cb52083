"""Located weights that are not there, twice there, or elsewhere, each told with its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import TinyModel, chains_of
from torch import nn
from torch.nn.utils import parametrize

from atp_core._located import located_faults
from atp_core.records import Block, Chain, PrunableWeight


@pytest.fixture(params=["cpu", "meta"])
def model(request: pytest.FixtureRequest) -> TinyModel:
    with torch.device(request.param):
        return TinyModel()


def faults(model: nn.Module, *weights: PrunableWeight) -> list[str]:
    """Faults where the model is one block that holds `weights`."""
    return list(located_faults(model, [Chain("main", [Block("all", model, weights)])]))


class Holder(nn.Module):
    """Parameters of several layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Parameter(torch.randn(12, 4))
        self.stack = nn.Parameter(torch.randn(3, 6, 4))
        self.conv = nn.Conv2d(4, 8, 3, groups=2)
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", torch.randn(5, 5))


@pytest.fixture(params=["cpu", "meta"])
def holder(request: pytest.FixtureRequest) -> Holder:
    with torch.device(request.param):
        return Holder()


class TestNothingLegitimateIsRefused:
    def test_linear_layers_experts_and_transposed_views(self, model: TinyModel) -> None:
        assert list(located_faults(model, chains_of(model))) == []

    def test_slices_of_rows_and_of_columns(self, holder: Holder) -> None:
        rows = [PrunableWeight(f"r{i}", holder, "qkv", rows=(i, i + 4)) for i in (0, 4, 8)]
        assert faults(holder, *rows) == []
        # Rows of a transposed view are columns, which lie between each other in memory.
        columns = [
            PrunableWeight(f"c{i}", holder, "qkv", transposed=True, rows=(i, i + 1))
            for i in range(4)
        ]
        assert faults(holder, *columns) == []
        both = [
            PrunableWeight(f"b{e}{i}", holder, "stack", (e,), transposed=True, rows=(i, i + 2))
            for e in range(3)
            for i in (0, 2)
        ]
        assert faults(holder, *both) == []

    def test_groups_of_a_convolution_and_buffers(self, holder: Holder) -> None:
        groups = [PrunableWeight(f"g{i}", holder.conv, rows=(4 * i, 4 * i + 4)) for i in range(2)]
        assert faults(holder, *groups, PrunableWeight("table", holder, "table")) == []

    def test_a_weight_that_two_modules_of_a_block_share(self) -> None:
        block = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        block[1].weight = block[0].weight
        assert faults(block, PrunableWeight("0.weight", block[0])) == []

    def test_inference_tensors_and_parameters_in_one_piece_of_memory(self) -> None:
        with torch.inference_mode():
            made = nn.Linear(4, 4)
        assert faults(made, PrunableWeight("weight", made)) == []
        flat = torch.randn(32)
        pair = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        for i in range(2):
            pair[i].weight = nn.Parameter(flat[16 * i : 16 * i + 16].view(4, 4))
        assert faults(pair, *(PrunableWeight(f"{i}", pair[i]) for i in range(2))) == []

    def test_views_of_a_subclass(self, holder: Holder) -> None:
        class Halves(PrunableWeight):
            def matrix(self) -> torch.Tensor:
                return self.tensor.view(2, 6, 4)[self.index[0]]

        halves = [Halves(f"h{i}", holder, "qkv", index=(i,)) for i in range(2)]
        assert faults(holder, *halves) == []
        [fault] = faults(holder, *halves, PrunableWeight("q", holder, "qkv", rows=(5, 6)))
        assert "'h0'" in fault and "'q'" in fault


class TestWeightsThatAreNotThere:
    """Each fault names the weight and says what to do."""

    @pytest.mark.parametrize(
        ("make", "told"),
        [
            (lambda h: PrunableWeight("x", nn.Linear(4, 4)), r"\(Linear\) is no part of the model"),
            (lambda h: PrunableWeight("x", h.linear, "wieght"), "'wieght'; it has weight"),
            (lambda h: PrunableWeight("x", h, "linear"), "no parameter 'linear'"),
            (lambda h: PrunableWeight("x", h, "stack", (3,)), r"index=\(3,\)"),
            (lambda h: PrunableWeight("x", h, "stack", (0, 0)), "is no matrix"),
            (lambda h: PrunableWeight("x", h.linear, "bias"), "is no matrix; leave vectors out"),
            (lambda h: PrunableWeight("x", h, "qkv", rows=(8, 16)), r"rows \(8, 16\) lie outside"),
            (lambda h: PrunableWeight("x", h, "qkv", rows=(12, 16)), r"\(0, 4\)"),
            (lambda h: PrunableWeight("x", h, "qkv", rows=(4, 4)), r"\(0, 4\)"),
            (lambda h: PrunableWeight("x", h, "qkv", rows=(-4, -1)), "lie outside"),
            (lambda h: PrunableWeight("x", h, "qkv", transposed=True, rows=(2, 6)), "transposed"),
        ],
    )  # fmt: skip
    def test_one(self, holder: Holder, make: Callable[[Holder], PrunableWeight], told: str) -> None:
        [fault] = faults(holder, make(holder), PrunableWeight("fine", holder.linear))
        assert "'x' of block 'all'" in fault
        assert re.search(told, fault), fault
        assert "; " in fault, "a remedy"

    def test_a_view_that_is_a_copy(self, holder: Holder) -> None:
        class Copied(PrunableWeight):
            def matrix(self) -> torch.Tensor:
                return self.tensor.clone()

        [fault] = faults(holder, Copied("x", holder, "qkv"))
        assert "'x'" in fault and "is a copy" in fault

    def test_a_parameter_that_is_computed_anew(self) -> None:
        class Doubled(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return 2 * x

        made = nn.Linear(4, 4)
        parametrize.register_parametrization(made, "weight", Doubled())
        [fault] = faults(made, PrunableWeight("x", made))
        assert "computed anew" in fault

    def test_a_view_that_repeats_elements(self, holder: Holder) -> None:
        class Repeated(PrunableWeight):
            def matrix(self) -> torch.Tensor:
                return self.tensor[:1].expand(12, 4)

        [fault] = faults(holder, Repeated("x", holder, "qkv"))
        assert "repeats" in fault

    def test_packed_weights(self) -> None:
        made = nn.Module()
        made.packed = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
        [fault] = faults(made, PrunableWeight("x", made, "packed"))
        assert "uint8" in fault and "quantized" in fault

    def test_a_matrix_that_is_none(self, holder: Holder) -> None:
        class Odd(PrunableWeight):
            def matrix(self) -> Any:
                return "matrix"

        [fault] = faults(holder, Odd("x", holder, "qkv"))
        assert "Odd.matrix" in fault


class TestWeightsInTheWrongPlace:
    def test_outside_its_block(self, model: TinyModel) -> None:
        [chain] = chains_of(model)
        stray = chain.blocks[2].weights[0]
        chain.blocks[2].weights = chain.blocks[2].weights[1:]
        chain.blocks[0].weights = [*chain.blocks[0].weights, stray]
        [fault] = located_faults(model, [chain])
        assert "'blocks.2.query.weight' of block 'blocks.0'" in fault
        assert "outside the block" in fault

    def test_block_of_another_model(self, model: TinyModel) -> None:
        [chain] = chains_of(model)
        found = list(located_faults(TinyModel(), [chain]))
        assert "'blocks.0'" in found[0] and "no part of the model" in found[0]

    def test_a_module_that_is_two_blocks(self, model: TinyModel) -> None:
        block = model.blocks[0]
        chain = Chain("main", [Block("first", block, []), Block("again", block, [])])
        [fault] = located_faults(model, [chain])
        assert "'first' and 'again'" in fault

    def test_an_empty_chain(self, model: TinyModel) -> None:
        [fault] = located_faults(model, [*chains_of(model), Chain("rest", [])])
        assert "'rest' without a block" in fault


class TestTwice:
    def test_names(self, model: TinyModel) -> None:
        one, two = chains_of(model), chains_of(TinyModel())
        [chain] = one
        chain.blocks[1].name = "blocks.0"
        chain.blocks[2].weights[0].name = "blocks.0.query.weight"
        found = list(located_faults(model, one))
        assert any("two blocks called 'blocks.0'" in fault for fault in found)
        assert any("two weights called 'blocks.0.query.weight'" in fault for fault in found)
        found = list(located_faults(model, [*one, *two]))
        assert "two chains called 'main'" in found[0]

    def test_listed_twice_under_two_names(self, holder: Holder) -> None:
        [fault] = faults(
            holder, PrunableWeight("one", holder.linear), PrunableWeight("two", holder.linear)
        )
        assert "'one' and as 'two'" in fault

    def test_tied_parameters(self) -> None:
        block = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        block[1].weight = block[0].weight
        [fault] = faults(
            block, PrunableWeight("0.weight", block[0]), PrunableWeight("1.weight", block[1])
        )
        assert "'0.weight' and as '1.weight'" in fault and "shared" in fault

    @pytest.mark.parametrize(
        ("one", "two"),
        [
            ({"rows": (0, 5)}, {"rows": (4, 8)}),
            ({}, {"rows": (11, 12)}),
            ({}, {"transposed": True}),
            ({"rows": (0, 4)}, {"transposed": True, "rows": (3, 4)}),
            ({"transposed": True, "rows": (0, 3)}, {"transposed": True, "rows": (2, 4)}),
        ],
    )
    def test_overlapping_parts(
        self, holder: Holder, one: dict[str, Any], two: dict[str, Any]
    ) -> None:
        [fault] = faults(
            holder,
            PrunableWeight("one", holder, "qkv", **one),
            PrunableWeight("two", holder, "qkv", **two),
        )
        assert "'one'" in fault and "'two'" in fault

    def test_an_expert_and_the_same_expert_transposed(self, holder: Holder) -> None:
        [fault] = faults(
            holder,
            PrunableWeight("zero", holder, "stack", (0,)),
            PrunableWeight("one", holder, "stack", (1,)),
            PrunableWeight("again", holder, "stack", (1,), transposed=True),
        )
        assert "'one' and as 'again'" in fault
