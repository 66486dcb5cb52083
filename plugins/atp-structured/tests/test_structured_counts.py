"""How many units go for a rate, and which."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atp_core.records import PrunableWeight
from atp_structured._counts import Budget
from atp_structured._groups import Group, Member
from atp_structured._importance import lowest, scores


class Tiny(nn.Module):
    """4 heads of 2 features and 10 channels between layers of width 8."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.back = nn.Linear(8, 8), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 10), nn.Linear(10, 8)


def tiny() -> tuple[Tiny, list[PrunableWeight], list[Group]]:
    model = Tiny().requires_grad_(False)
    weights = [PrunableWeight(f"{n}.weight", m) for n, m in model.named_children()]
    pairs, ones = torch.arange(8).view(4, 2), torch.arange(10).view(10, 1)
    heads = Group(
        "heads", "", 4, (Member("value", "out", pairs), Member("back", "in", pairs))
    )
    channels = Group("channels", "up", 10, (Member("up", "out", ones), Member("down", "in", ones)))
    return model, weights, [heads, channels]


def test_a_unit_counts_what_goes_with_it() -> None:
    """A head is 2 rows of 8 and 2 columns of 8, a channel 8 and 8: 32 and 16 of 288."""
    budget = Budget(*tiny())
    assert budget.total == 288
    assert budget.removed([0, 0]) == 0
    assert budget.removed([1, 0]) == pytest.approx(32)
    assert budget.removed([0, 1]) == pytest.approx(16)
    assert budget.removed([3, 9]) == pytest.approx(96 + 144)


@pytest.mark.parametrize(
    ("rate", "counts"),
    [
        (0.0, [0, 0]),
        (0.5, [2, 5]),  # exactly half of both
        (0.3, [1, 3]),  # 86.4 wanted: 1 head and 3 channels are 80, a 4th would make 96
        (1.0, [3, 9]),  # one of each stays
    ],
)
def test_counts_by_hand(rate: float, counts: list[int]) -> None:
    assert Budget(*tiny()).counts(rate) == counts


@pytest.mark.parametrize("percent", range(1, 83, 3))
def test_no_neighbour_is_nearer(percent: int) -> None:
    """Half of the smallest unit, 8 of 288, is the most that a rate in reach is missed by."""
    budget = Budget(*tiny())
    removed = budget.removed(budget.counts(percent / 100))
    assert abs(removed - percent / 100 * 288) <= 8 + 1e-6


def test_a_layer_between_two_groups_counts_once() -> None:
    """Rows and columns overlap: half of both leaves a quarter."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    weights = [PrunableWeight(f"{n}.weight", m) for n, m in model.named_children()]
    ones = torch.arange(4).view(4, 1)
    groups = [
        Group("channels", "0", 4, (Member("0", "out", ones), Member("1", "in", ones))),
        Group("channels", "1", 4, (Member("1", "out", ones), Member("2", "in", ones))),
    ]
    budget = Budget(model, weights, groups)
    assert budget.removed([2, 2]) == pytest.approx(8 + 12 + 8)


def test_nothing_can_go() -> None:
    model, weights, _ = tiny()
    assert Budget(model, weights, []).counts(0.5) == []


def test_magnitude_is_the_norm_of_all_that_goes() -> None:
    model, weights, groups = tiny()
    found = scores(model, weights, groups[0], None)
    for head in range(4):
        part = slice(2 * head, 2 * head + 2)
        rows, columns = model.value.weight[part], model.back.weight[:, part]
        expected = (rows.square().sum() + columns.square().sum()).sqrt()
        assert found[head] == pytest.approx(float(expected), rel=1e-5)


def test_wanda_is_weights_times_norms_of_inputs() -> None:
    """Inputs of norm 1, 2, 3 … at every layer."""
    from atp_core.engine.statistics import ColumnNorms

    model, weights, groups = tiny()

    class Known:
        def of(self, weight: PrunableWeight) -> ColumnNorms:
            known = ColumnNorms(weight.shape[1], torch.device("cpu"))
            known.add(torch.diag(torch.arange(1.0, weight.shape[1] + 1)), 1)
            return known

    found = scores(model, weights, groups[1], Known())  # type: ignore[arg-type]
    norms = torch.arange(1.0, 9.0)
    for channel in range(10):
        expected = (model.up.weight[channel].abs() * norms).sum()
        expected += model.down.weight[:, channel].abs().sum() * (channel + 1)
        assert found[channel] == pytest.approx(float(expected), rel=1e-5)


def test_the_lowest_go() -> None:
    assert lowest(torch.tensor([3.0, 1.0, 2.0, 1.0]), 2).tolist() == [1, 3]
    assert lowest(torch.tensor([1.0, 1.0, 1.0]), 2).tolist() == [0, 1]
