"""ALS, LoSA, ECoFLaP and Power where inputs, sizes or targets are out of the ordinary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from atp_core.allocation import AllocationRequest
from atp_core.allocation._redundancy import cheapest_rates, similarity
from atp_core.allocation.als import ALS
from atp_core.allocation.atp import ATP
from atp_core.allocation.budget import beta_max, weighted_mean
from atp_core.allocation.ecoflap import ECoFLaP
from atp_core.allocation.losa import LoSA
from atp_core.allocation.power import Power
from atp_core.errors import NumericalError, UsageError
from atp_core.records import Block, Chain, PrunableWeight, Schedule

TARGETS = [0.0, 0.05, 0.5, 0.7, 0.95, 1.0]


class Shown:
    """Inputs of blocks and a loss that are given."""

    def __init__(
        self, rows: Sequence[torch.Tensor] = (), loss: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.rows, self.loss = rows, loss

    def inputs(self, chain: Chain) -> Sequence[torch.Tensor]:
        return self.rows

    def norms(self, weight: PrunableWeight) -> torch.Tensor:
        raise AssertionError("these allocations ask for no norms")


def chain_of(sizes: Sequence[Sequence[int]], name: str = "main") -> Chain:
    """A chain of blocks with weights of these numbers of rows, four columns each."""
    generator = torch.Generator().manual_seed(len(sizes))
    blocks = []
    for i, own in enumerate(sizes):
        weights = []
        for j, rows in enumerate(own):
            module = nn.Linear(4, rows, bias=False)
            with torch.no_grad():
                module.weight.copy_(torch.randn(rows, 4, generator=generator))
            weights.append(PrunableWeight(f"{name}.{i}.{j}.weight", module))
        blocks.append(Block(f"{name}.{i}", nn.Identity(), weights))
    return Chain(name, blocks)


def allocate(
    allocator: Any, chain: Chain, target: float, shown: Shown | None = None, **options: Any
) -> list[float]:
    request = AllocationRequest([chain], {chain.name: target}, options, shown or Shown())
    schedule: Schedule = allocator.allocate(request)
    return schedule.of(chain)


def meets(chain: Chain, target: float, found: Sequence[float]) -> bool:
    """Whether the budget is met, by rates that are rates."""
    sizes = [block.parameters for block in chain.blocks]
    inside = all(0.0 <= rate <= 1.0 for rate in found)
    return inside and weighted_mean(sizes, found) == pytest.approx(target, abs=1e-9)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


UNEQUAL = chain_of([[2], [6, 1], [2], [10]])
ODD_INPUTS = {
    "zeros": [torch.zeros(20, 6)] * 4,
    "constant": [torch.full((20, 6), 0.1 * (i + 1)) for i in range(4)],
    "one row": [noise(1, 6, seed=i) for i in range(4)],
    "other widths": [noise(20, 3 + 2 * i, seed=i) for i in range(4)],
    "huge": [noise(20, 6, seed=i) * 1e30 for i in range(4)],
    "tiny": [noise(20, 6, seed=i) * 1e-40 for i in range(4)],
    "all alike": [noise(20, 6)] * 4,
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", ODD_INPUTS.values(), ids=ODD_INPUTS)
@pytest.mark.parametrize("allocator", [ALS, LoSA])
def test_odd_inputs_meet_the_budget(
    allocator: Any, rows: Sequence[torch.Tensor], target: float
) -> None:
    assert meets(UNEQUAL, target, allocate(allocator(), UNEQUAL, target, Shown(rows)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("allocator", [ALS, LoSA, ECoFLaP, Power])
def test_one_block_gets_the_target(allocator: Any, target: float) -> None:
    options = {"beta": 0.3} if allocator is Power else {}
    found = allocate(allocator(), chain_of([[3, 2]]), target, Shown([noise(20, 6)]), **options)
    assert found == pytest.approx([target])


def test_inputs_that_tell_nothing_apart_give_uniform_rates() -> None:
    for allocator in (ALS(), LoSA()):
        found = allocate(allocator, UNEQUAL, 0.6, Shown([noise(20, 6)] * 4))
        assert found == pytest.approx([0.6] * 4)


def test_a_constant_feature_is_redundant_only_where_nothing_is_centred() -> None:
    rows = [torch.full((20, 6), 0.5), torch.full((20, 6), 2.0), noise(20, 6)]
    assert similarity(rows, centred=False)[0][1] == pytest.approx(1.0)
    assert similarity(rows, centred=True)[0][1] == 0.0


def test_many_blocks_do_not_underflow() -> None:
    """ω falls to exp(−L): 120 blocks are more than any model has."""
    chain = chain_of([[1]] * 120)
    rows = [noise(30, 4, seed=0) + 0.2 * noise(30, 4, seed=i) for i in range(120)]
    found = allocate(ALS(), chain, 0.7, Shown(rows))
    assert meets(chain, 0.7, found)
    assert len(set(found)) > 1


def test_bounds_are_those_of_the_options() -> None:
    rows = [noise(20, 6, seed=0) + 0.5 * noise(20, 6, seed=i) for i in range(4)]
    for target, delta in [(0.5, 0.01), (0.51, 0.02), (0.6, 0.02), (0.61, 0.03), (0.8, 0.03)]:
        found = allocate(LoSA(), UNEQUAL, target, Shown(rows))
        assert max(abs(rate - target) for rate in found) == pytest.approx(delta)
    found = allocate(ALS(), UNEQUAL, 0.9, Shown(rows), spread=0.3)
    assert min(found) >= 0.6 - 1e-12 and max(found) <= 1.0


# --- the loss ------------------------------------------------------------------------------------


def quadratic(chain: Chain, curvature: Sequence[float]) -> Callable[[], float]:
    """Σ ½·c_i·‖W_i‖², whose gradient with respect to block i is c_i·W_i."""

    def loss() -> float:
        return sum(
            0.5 * c * float(sum(w.matrix().double().square().sum() for w in block.weights))
            for c, block in zip(curvature, chain.blocks, strict=True)
        )

    return loss


@pytest.mark.parametrize("per", ["block", "weight"])
def test_the_slope_of_a_quadratic_is_its_gradient_along_the_noise(per: str) -> None:
    """Central differences of a quadratic are exact: |⟨c_i·W_i, z⟩|, of all or of each weight."""
    chain = chain_of([[3, 2], [5], [8]])
    curvature = [2.0, 0.5, 1.0]
    generator = torch.Generator().manual_seed(0)
    scores = []
    for c, block in zip(curvature, chain.blocks, strict=True):
        slopes = [
            c * float((w.matrix().double() * torch.randn(w.shape, generator=generator)).sum())
            for w in block.weights
        ]
        scores.append(abs(sum(slopes)) if per == "block" else sum(map(abs, slopes)))
    sizes = [block.parameters for block in chain.blocks]
    kept = [
        0.45 * n + 0.05 * sum(sizes) * s / sum(scores) for n, s in zip(sizes, scores, strict=True)
    ]
    assert all(k < n for k, n in zip(kept, sizes, strict=True)), "nothing is clamped"
    shown = Shown(loss=quadratic(chain, curvature))
    found = allocate(ECoFLaP(), chain, 0.5, shown, per=per, margin=0.05, eps=0.01)
    expected = [1 - k / n for k, n in zip(kept, sizes, strict=True)]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("per", ["block", "weight"])
def test_two_losses_a_block_or_a_weight(per: str) -> None:
    chain = chain_of([[3, 2], [5], [8]])
    asked: list[None] = []

    def loss() -> float:
        asked.append(None)
        return 1.0

    assert allocate(ECoFLaP(), chain, 0.4, Shown(loss=loss), per=per) == pytest.approx([0.4] * 3)
    assert len(asked) == 2 * (3 if per == "block" else 4)


@pytest.mark.parametrize("margin", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("target", TARGETS)
def test_what_a_block_cannot_hold_goes_to_the_others(target: float, margin: float) -> None:
    """One block alone moves the loss: it is dense before the others get more than the floor."""
    shown = Shown(loss=quadratic(UNEQUAL, [0.0, 0.0, 1.0, 0.0]))
    found = allocate(ECoFLaP(), UNEQUAL, target, shown, margin=margin)
    assert meets(UNEQUAL, target, found)
    others = [found[i] for i in (0, 1, 3)]
    assert others == pytest.approx([others[0]] * 3)
    assert found[2] <= others[0] + 1e-12
    if 0.0 < found[2] < 1.0:
        assert others[0] == pytest.approx(min(target + margin, 1.0))


def test_weights_of_two_bytes_are_put_back_bit_for_bit() -> None:
    chain = chain_of([[3, 2], [5]])
    weights = [weight for block in chain.blocks for weight in block.weights]
    for weight in weights:
        weight.module.bfloat16()
    before = [weight.matrix().clone() for weight in weights]
    calls = iter([1.0, 2.0, 3.0])

    def loss() -> float:
        try:
            return next(calls)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        allocate(ECoFLaP(), chain, 0.5, Shown(loss=loss))
    assert all(torch.equal(w.matrix(), b) for w, b in zip(weights, before, strict=True))


# --- the family ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("exponent", [0.25, 1.0, 2.0, 6.0])
def test_a_power_meets_the_budget_and_rises(target: float, exponent: float) -> None:
    beta = beta_max(target, 4)
    found = allocate(Power(), UNEQUAL, target, beta=beta, exponent=exponent)
    assert meets(UNEQUAL, target, found)
    assert found == sorted(found)


def test_exponent_one_is_atp_for_every_chain() -> None:
    chains = [chain_of([[2], [6], [2]], "vision"), chain_of([[3], [1], [9], [4]], "text")]
    targets = {"vision": 0.6, "text": 0.45}
    betas = {"vision": 0.2, "text": 0.1}
    power = Power().allocate(AllocationRequest(chains, targets, {"beta": betas, "exponent": 1.0}))
    atp = ATP().allocate(AllocationRequest(chains, targets, {"beta": betas}))
    assert power.beta == atp.beta == betas
    assert [rate for *_, rate in power] == pytest.approx([rate for *_, rate in atp], abs=1e-15)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("allocator", [ALS, LoSA])
def test_inputs_that_are_not_finite_are_refused(allocator: Any, value: float) -> None:
    rows = [noise(20, 6, seed=i) for i in range(4)]
    rows[2][3, 1] = value
    with pytest.raises(NumericalError, match=r"block main\.2 .*--dtype"):
        allocate(allocator(), UNEQUAL, 0.5, Shown(rows))


@pytest.mark.parametrize("value", ["no", "False", 1])
def test_across_is_true_or_false(value: object) -> None:
    with pytest.raises(UsageError, match="option 'across' must be true or false"):
        allocate(ECoFLaP(), UNEQUAL, 0.5, across=value)


def test_costs_that_differ_by_rounding_are_equal() -> None:
    found = cheapest_rates([0.3, 0.1 + 0.2, 1.0], [4, 4, 4], 0.5, 0.1)
    assert found == pytest.approx([0.55, 0.55, 0.4])
