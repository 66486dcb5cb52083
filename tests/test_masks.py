"""DSnoT and ALPS against slow references, brute force and least squares."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atp_core.engine.statistics import Gram, Moments
from atp_core.methods.alps import ALPS
from atp_core.methods.dsnot import DSnoT
from atp_core.methods.sparsegpt import SparseGPT
from atp_core.methods.wanda import UNSEEN, Wanda

CPU = torch.device("cpu")


def inputs(tokens: int, width: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Correlated, of unequal norms, with means of `shift`."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) + 2 * torch.eye(width)
    scale = torch.rand(width, generator=generator) * 2 + 0.2
    return (torch.randn(tokens, width, generator=generator) @ mixing + shift) * scale


def noise(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def seen(method: Any, x: torch.Tensor) -> Any:
    statistics = method.statistics(x.shape[1], CPU)
    for part in x.chunk(3):
        statistics.add(part, 2)
    return statistics


def error(weight: torch.Tensor, pruned: Any, x: torch.Tensor) -> float:
    """‖X(Ŵ − W)ᵀ‖² of what a method made."""
    new = weight if pruned.weight is None else pruned.weight
    new = new.masked_fill(~pruned.mask, 0.0)
    return float((x.double() @ (weight - new).double().T).square().sum())


# --- DSnoT ---------------------------------------------------------------------------------------


def swapped_row(
    weight: list[float], x: torch.Tensor, kept: list[bool], threshold: float, cycles: int
) -> list[bool]:
    """One row of the algorithm, step by step, in plain numbers."""
    columns = x.double().T.tolist()
    means = [sum(column) / len(column) for column in columns]
    variances = [
        sum(value * value for value in column) / len(column) - mean * mean
        for column, mean in zip(columns, means, strict=True)
    ]
    norms = [math.sqrt(sum(value * value for value in column)) for column in columns]
    kept = list(kept)
    for _ in range(cycles):
        change = sum(w * m for w, m, k in zip(weight, means, kept, strict=True) if not k)
        if abs(change) < threshold:
            break
        sign = 1 if change > 0 else -1
        grown = max(
            (j for j in range(len(weight)) if not kept[j]),
            key=lambda j: sign * weight[j] * means[j] / variances[j],
        )
        helping = [
            j for j in range(len(weight)) if kept[j] and sign * weight[j] * means[j] < 0
        ]
        if not helping:
            break
        cut = min(helping, key=lambda j: abs(weight[j]) * norms[j])
        moved = change - weight[grown] * means[grown] + weight[cut] * means[cut]
        if abs(moved) >= abs(change):
            break
        kept[grown], kept[cut] = True, False
    return kept


@pytest.mark.parametrize("seed", range(6))
def test_dsnot_does_what_the_algorithm_says(seed: int) -> None:
    x = inputs(60, 16, seed, shift=1.5)
    weight = noise(12, 16, seed + 100)
    method = DSnoT(threshold=0.2, cycles=8)
    mask = method.prune(weight, 0.5, seen(method, x)).mask
    start = Wanda().prune(weight, 0.5, seen(Wanda(), x)).mask
    wanted = [
        swapped_row(row, x, kept, 0.2, 8)
        for row, kept in zip(weight.double().tolist(), start.tolist(), strict=True)
    ]
    assert mask.tolist() == wanted
    assert not torch.equal(mask, start), "something was swapped"
    assert torch.equal(mask.sum(1), start.sum(1)), "at constant sparsity"


def test_dsnot_never_makes_the_expected_change_larger() -> None:
    for seed in range(20):
        x = inputs(40, 24, seed, shift=1.0)
        weight = noise(10, 24, seed)
        method = DSnoT()
        mean = x.mean(0)
        before, after = (
            (weight * mean).masked_fill(one.prune(weight, 0.6, seen(one, x)).mask, 0.0).sum(1)
            for one in (Wanda(), method)
        )
        assert bool((after.abs() <= before.abs() + 1e-5).all())
        assert float(after.abs().mean()) < float(before.abs().mean())


def test_dsnot_is_wanda_where_inputs_have_no_mean() -> None:
    x = inputs(50, 8, 0)
    x = torch.cat([x, -x])
    weight = noise(6, 8, 1)
    masks = [one.prune(weight, 0.5, seen(one, x)).mask for one in (Wanda(), DSnoT())]
    assert torch.equal(*masks)


# --- ALPS ----------------------------------------------------------------------------------------


def test_alps_solves_the_least_squares_of_its_support() -> None:
    x = inputs(200, 12, 3)
    weight = noise(5, 12, 4)
    pruned = ALPS(refinements=60).prune(weight, 0.5, seen(ALPS(), x))
    assert int((~pruned.mask).sum()) == 30
    assert pruned.weight is not None
    gram = x.double().T @ x.double()
    # The damping is of a Gram matrix that was scaled to a diagonal of ones.
    gram.diagonal().mul_(1.01)
    for row, kept, found in zip(weight.double(), pruned.mask, pruned.weight, strict=True):
        wanted = torch.linalg.solve(gram[kept][:, kept], (gram @ row)[kept])
        assert found[kept].double() == pytest.approx(wanted, rel=2e-3, abs=2e-3)
        assert not found[~kept].any()


def test_alps_comes_near_the_best_support_there_is() -> None:
    """The rank of its support among all 70, each with its least squares, over 30 problems."""
    ranks: dict[str, list[int]] = {"alps": [], "sparsegpt": []}
    for seed in range(30):
        x = inputs(100, 8, seed).double()
        weight = noise(1, 8, seed + 50)
        outputs = x @ weight[0].double()
        costs = {}
        for kept in itertools.combinations(range(8), 4):
            part = x[:, list(kept)]
            solution = torch.linalg.lstsq(part, outputs).solution
            costs[kept] = float((part @ solution - outputs).square().sum())
        order = sorted(costs.values())
        for method in (ALPS(damping=1e-4), SparseGPT(damping=1e-4)):
            mask = method.prune(weight, 0.5, seen(method, x.float())).mask[0]
            ranks[method.name].append(order.index(costs[tuple(mask.nonzero()[:, 0].tolist())]))
    found = ranks["alps"]
    assert sum(found) / 30 < 4 and sum(rank == 0 for rank in found) >= 12
    assert sum(found) < sum(ranks["sparsegpt"]) / 2


def test_alps_is_better_than_sparsegpt_and_that_than_wanda() -> None:
    totals = {"alps": 0.0, "sparsegpt": 0.0, "wanda": 0.0}
    for seed in range(5):
        x = inputs(400, 64, seed)
        weight = noise(48, 64, seed + 9)
        for method in (ALPS(), SparseGPT(), Wanda()):
            pruned = method.prune(weight, 0.7, seen(method, x))
            totals[method.name] += error(weight, pruned, x)
    assert totals["alps"] < 0.9 * totals["sparsegpt"] and totals["sparsegpt"] < totals["wanda"]


def test_alps_tells_where_its_support_was_still_moving() -> None:
    x = inputs(100, 16, 0)
    weight = noise(16, 16, 1)
    pruned = ALPS(iterations=3).prune(weight, 0.5, seen(ALPS(), x))
    assert "after 3 iterations of ADMM" in pruned.notes[0]
    assert not ALPS().prune(weight, 0.5, seen(ALPS(), x)).notes


def test_weights_of_inputs_that_are_always_zero_go_first() -> None:
    x = inputs(80, 10, 2)
    x[:, [1, 7]] = 0.0
    weight = noise(6, 10, 3) + 5.0
    for method in (ALPS(), DSnoT()):
        pruned = method.prune(weight, 0.2, seen(method, x))
        assert not pruned.mask[:, [1, 7]].any() and pruned.mask.sum() == 48
        kept = method.prune(weight, 0.1, seen(method, x))
        new = weight if kept.weight is None else kept.weight
        assert torch.equal(new[kept.mask & (x[0] == 0)], weight[kept.mask & (x[0] == 0)])


# --- both ----------------------------------------------------------------------------------------

ODD = {
    "zeros": torch.zeros(8, 6),
    "constant": torch.full((8, 6), 2.0),
    "one row": torch.arange(1.0, 7.0)[None],
    "huge": torch.ones(8, 6) * 1e15,
    "tiny": torch.ones(8, 6) * 1e-18,
}


@pytest.mark.parametrize("x", ODD.values(), ids=ODD)
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("method", [ALPS(), DSnoT()], ids=lambda one: one.name)
def test_odd_inputs_give_counts_and_numbers(method: Any, rate: float, x: torch.Tensor) -> None:
    for weight in (noise(7, 6, 0), torch.ones(7, 6), torch.zeros(7, 6)):
        pruned = method.prune(weight, rate, seen_whole(method, x))
        assert int((~pruned.mask).sum()) == round(rate * 42)
        if pruned.weight is not None:
            assert bool(torch.isfinite(pruned.weight).all())


def seen_whole(method: Any, x: torch.Tensor) -> Any:
    statistics = method.statistics(x.shape[1], CPU)
    statistics.add(x, 1)
    return statistics


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    rate=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_the_rate_is_met_to_within_one_weight(
    rows: int, columns: int, rate: float, seed: int
) -> None:
    x, weight = inputs(30, columns, seed, shift=1.0), noise(rows, columns, seed)
    before = weight.clone()
    for method in (ALPS(), DSnoT()):
        pruned = method.prune(weight, rate, seen(method, x))
        assert int((~pruned.mask).sum()) == round(rate * weight.numel())
    assert torch.equal(weight, before), "what was given is not changed"


@pytest.mark.parametrize("method", [ALPS(), DSnoT()], ids=lambda one: one.name)
def test_weights_that_no_token_reached_go_by_magnitude(method: Any) -> None:
    weight = noise(4, 6, 0)
    for statistics in (None, method.statistics(6, CPU)):
        pruned = method.prune(weight, 0.5, statistics)
        assert pruned.notes == [UNSEEN] and pruned.weight is None
        assert torch.equal(pruned.mask.sum(1), torch.full((4,), 3))
        lowest = weight.abs().masked_fill(~pruned.mask, torch.inf).amin(1)
        assert bool((weight.abs().masked_fill(pruned.mask, 0.0).amax(1) < lowest).all())


def test_moments_are_those_of_the_rows() -> None:
    x = inputs(30, 5, 1, shift=2.0)
    moments = seen(DSnoT(), x)
    assert isinstance(moments, Moments) and moments.tokens == 30 and moments.sequences == 6
    assert torch.allclose(moments.sums, x.sum(0), rtol=1e-5)
    assert torch.allclose(moments.squares, x.square().sum(0), rtol=1e-5)
    assert moments.finite()
    moments.add(torch.full((1, 5), torch.inf), 1)
    assert not moments.finite()
    assert isinstance(ALPS().statistics(5, CPU), Gram)
