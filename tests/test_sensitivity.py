"""ATP bent by the cost of each block: its costs, its family, and its search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from atp_core.allocation import AllocationRequest, ScheduleJudge
from atp_core.allocation.budget import beta_max, weighted_mean
from atp_core.allocation.sensitivity import Sensitivity
from atp_core.errors import NumericalError, UsageError
from atp_core.records import Block, Chain, PrunableWeight, Schedule


class Shown:
    """Norms of one, and a loss that is given."""

    def __init__(self, loss: Callable[[], float]) -> None:
        self.loss = loss

    def norms(self, weight: PrunableWeight) -> torch.Tensor | None:
        return torch.tensor([1.0, 1.0, 10.0, 1.0])

    def inputs(self, chain: Chain) -> Sequence[torch.Tensor]:
        raise AssertionError("inputs are not asked for")


def chain_of(rows: Sequence[int], name: str = "main") -> Chain:
    """Blocks of one weight each with so many rows of (1, 2, 3, 4)."""
    blocks = []
    for i, count in enumerate(rows):
        module = nn.Linear(4, count, bias=False)
        with torch.no_grad():
            module.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]] * count))
        weight = PrunableWeight(f"{name}.{i}.weight", module)
        blocks.append(Block(f"{name}.{i}", nn.Identity(), [weight]))
    return Chain(name, blocks)


def loss_of(chain: Chain, costs: Sequence[float]) -> Callable[[], float]:
    """Each block adds its cost, if column 0 of its weight is gone; column 2 never may be."""

    def loss() -> float:
        total = 1.0
        for block, cost in zip(chain.blocks, costs, strict=True):
            matrix = block.weights[0].matrix()
            kept = matrix[:, 2] != 0
            assert bool(kept.all() or not matrix.any()), "its norm puts it above the others"
            total += cost * float((matrix[:, 0] == 0).all())
        return total

    return loss


def request_for(
    chain: Chain, costs: Sequence[float], target: float = 0.5, **options: object
) -> AllocationRequest:
    return AllocationRequest([chain], {chain.name: target}, options, Shown(loss_of(chain, costs)))


class Judge:
    """Counts schedules, and judges them by a function of their rates."""

    def __init__(self, chain: Chain, cost: Callable[[list[float]], float]) -> None:
        self.chain, self.cost = chain, cost
        self.asked: list[list[float]] = []

    def __call__(self, schedules: Sequence[Schedule]) -> list[float]:
        rates = [schedule.of(self.chain) for schedule in schedules]
        self.asked += rates
        return [self.cost(one) for one in rates]


def search(request: AllocationRequest, judge: Judge) -> list[float]:
    found = Sensitivity().search(request, ScheduleJudge(judge))
    assert found.allocation == "atp-sensitivity"
    return found.of(judge.chain)


COSTS = [0.8, 0.1, 0.4, 0.2]


def scores(costs: Sequence[float]) -> torch.Tensor:
    logs = torch.tensor(costs, dtype=torch.float64).log()
    return (logs - logs.mean()) / logs.std(correction=0)


def test_the_first_trials_are_uniform_two_lines_and_the_three_bent() -> None:
    chain = chain_of([1, 1, 1, 1])
    judge = Judge(chain, lambda rates: 0.0)
    search(request_for(chain, COSTS, rounds=0), judge)
    steps = torch.arange(4, dtype=torch.float64) - 1.5
    wanted = []
    for bend in (0.0, 0.5 / 3):
        for slope in (0.0, 0.25, 0.5):
            line = 0.5 + slope * beta_max(0.5, 4) * steps
            wanted.append((line - bend * scores(COSTS)).tolist())
    assert len(judge.asked) == Sensitivity().trials(request_for(chain, COSTS, rounds=0)) == 6
    for found, rates in zip(judge.asked, wanted, strict=True):
        assert found == pytest.approx(rates, abs=1e-9)
    assert judge.asked[0] == [0.5] * 4, "uniform exactly"


def test_rounds_come_near_the_best_of_the_family() -> None:
    chain = chain_of([1, 1, 1, 1])
    steps = torch.arange(4, dtype=torch.float64) - 1.5
    # A member that is not among the first: slope 0.4, bend 0.22.
    ideal = 0.5 + 0.4 * beta_max(0.5, 4) * steps - 0.22 * 0.5 * scores(COSTS)

    def cost(rates: list[float]) -> float:
        return float((torch.tensor(rates, dtype=torch.float64) - ideal).square().sum())

    judges = [Judge(chain, cost) for _ in range(3)]
    for rounds, judge in zip((0, 2, 5), judges, strict=True):
        request = request_for(chain, COSTS, rounds=rounds)
        search(request, judge)
        assert len(judge.asked) <= Sensitivity().trials(request)
        assert len({tuple(rates) for rates in judge.asked}) == len(judge.asked), "none twice"
    least = [min(map(cost, judge.asked)) for judge in judges]
    assert least[0] > least[1] > least[2] and least[2] < 1e-3


def test_every_schedule_meets_the_budget_of_unequal_blocks() -> None:
    chain = chain_of([1, 7, 2, 5, 3])
    for target in (0.05, 0.3, 0.7, 0.95):
        judge = Judge(chain, lambda rates: sum(rate**3 for rate in rates))
        costs = [0.5, 0.01, 0.9, 0.3, 2.0] if target > 0.25 else [0.0] * 5
        search(request_for(chain, costs, target), judge)
        sizes = [block.parameters for block in chain.blocks]
        for rates in judge.asked:
            assert all(0 <= rate <= 1 for rate in rates)
            assert weighted_mean(sizes, rates) == pytest.approx(target, abs=1e-9)


@pytest.mark.parametrize(
    "costs",
    [[0.0] * 4, [0.3] * 4, [-0.1, -0.2, 0.0, -0.5]],
    ids=["none", "alike", "gains"],
)
def test_where_costs_tell_nothing_apart_only_the_slope_is_left(costs: list[float]) -> None:
    chain = chain_of([1, 1, 1, 1])
    judge = Judge(chain, lambda rates: 0.0)
    search(request_for(chain, costs, rounds=0), judge)
    assert judge.asked[3:] == judge.asked[:3]


def test_a_cost_near_nothing_is_taken_as_a_share_of_the_median() -> None:
    chain = chain_of([1, 1, 1, 1])
    found = []
    for least in (0.0, 1e-9, 0.05 * 0.3):
        judge = Judge(chain, lambda rates: 0.0)
        search(request_for(chain, [0.3, least, 0.3, 0.3], rounds=0), judge)
        found.append(judge.asked[3])
    assert found[0] == pytest.approx(found[1]) and found[0] == pytest.approx(found[2])
    assert found[0][1] > found[0][0]


def test_one_block_has_nothing_to_give_or_take() -> None:
    chain = chain_of([3])
    judge = Judge(chain, lambda rates: 0.0)
    assert search(request_for(chain, [0.4]), judge) == [0.5]


def test_weights_are_put_back_and_a_loss_that_is_no_number_is_told() -> None:
    chain = chain_of([2, 2])
    before = [block.weights[0].matrix().clone() for block in chain.blocks]
    losses = iter([1.0, 1.1, math.nan])
    request = AllocationRequest([chain], {"main": 0.5}, {}, Shown(lambda: next(losses)))
    with pytest.raises(NumericalError, match=r"loss is nan with block main\.1 pruned to 0\.5"):
        search(request, Judge(chain, lambda rates: 0.0))
    for block, one in zip(chain.blocks, before, strict=True):
        assert torch.equal(block.weights[0].matrix(), one)


def test_wrong_options() -> None:
    chain = chain_of([1, 1])
    for options in ({"gamma": 1}, {"bend": 2.0}, {"rounds": -1}):
        with pytest.raises(UsageError):
            Sensitivity().allocate(request_for(chain, [0.1, 0.2], **options))
