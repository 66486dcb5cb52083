"""The theorems of the ATP paper: what holds of them, and what does not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def masked(weight: torch.Tensor, rate: float) -> torch.Tensor:
    """The weight without the share `rate` of its smallest magnitudes."""
    count = int(rate * weight.numel())
    kept = weight.flatten().clone()
    kept[weight.abs().flatten().argsort()[:count]] = 0
    return kept.view_as(weight)


def error(weight: torch.Tensor, inputs: torch.Tensor, rate: float) -> float:
    return float(((weight - masked(weight, rate)) @ inputs).square().sum())


# --- Theorem 3.1 ---------------------------------------------------------------------------------


def test_nested_masks_raise_the_error_where_features_are_uncorrelated() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(24, 16, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(torch.randn(64, 16, generator=generator, dtype=torch.float64)).Q
        errors = [error(weight, basis.T, rate / 20) for rate in range(21)]
        assert all(a <= b + 1e-9 for a, b in itertools.pairwise(errors))


def test_nested_masks_nearly_always_raise_it_where_features_are_correlated() -> None:
    cases = held = 0
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(24, 16, generator=generator, dtype=torch.float64)
        mixed = torch.randn(16, 16, generator=generator, dtype=torch.float64)
        inputs = mixed @ torch.randn(16, 64, generator=generator, dtype=torch.float64)
        errors = [error(weight, inputs, rate / 10) for rate in range(11)]
        cases += 10
        held += sum(a <= b for a, b in itertools.pairwise(errors))
    assert held / cases > 0.95


def test_cutting_more_can_cost_less() -> None:
    weight = torch.tensor([[1.0, -1.001]])
    inputs = torch.ones(2, 8)
    assert error(weight, inputs, 0.5) > error(weight, inputs, 1.0)


def test_on_real_blocks(shared: Callable[[str], Path]) -> None:
    """Blocks of a language model, their true inputs, magnitude masks in steps of a tenth."""
    pytest.importorskip("atp_llm", reason="the plugin for language models is not installed")
    from atp_core._session import Session
    from atp_core.recipe import Recipe
    from atp_core.records import Source

    source = str(shared("models/stories260k"))
    recipe = Recipe.make({"source": source, "sparsity": 0.5, "samples": 2, "seqlen": 64})
    session = Session(recipe, Source(source))
    [chain] = session.chains
    seen: dict[str, torch.Tensor] = {}
    handles = [
        weight.module.register_forward_pre_hook(
            lambda _, args, name=weight.name: seen.__setitem__(name, args[0][0].double().T)
        )
        for block in chain.blocks
        for weight in block.weights
    ]
    with torch.inference_mode():
        session.calibration.forward(session.calibration.batches[0])
    for handle in handles:
        handle.remove()
    cases = held = 0
    for block in chain.blocks:
        for weight in block.weights:
            matrix = weight.matrix().double()
            errors = [error(matrix, seen[weight.name], rate / 10) for rate in range(11)]
            cases += 10
            held += sum(a <= b for a, b in itertools.pairwise(errors))
    assert cases == 10 * 5 * 7
    assert held / cases > 0.95


# --- Lemma 3.3 and Theorem 3.2 -------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(0, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_the_lemma_holds_for_tall_and_square_matrices(
    columns: int, more: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(columns + more, columns, generator=generator, dtype=torch.float64)
    b = torch.randn(columns, width, generator=generator, dtype=torch.float64)
    least = float(torch.linalg.svdvals(a)[-1])
    assert float((a @ b).square().sum()) >= least**2 * float(b.square().sum()) * (1 - 1e-9)


def test_the_lemma_is_false_for_wide_ones() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0], [1.0]])
    assert float(torch.linalg.svdvals(a)[-1]) == 1.0
    assert float((a @ b).square().sum()) == 0.0 < float(b.square().sum())
    assert float(torch.linalg.eigvalsh(a.T @ a)[0]) == 0.0, "and with the right constant it is void"


def test_one_threshold_can_make_a_square_matrix_singular() -> None:
    weight = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [0.2, 0.1, 0.3]])
    assert float(torch.linalg.svdvals(weight)[-1]) > 0.1
    assert float(torch.linalg.svdvals(masked(weight, 0.4))[-1]) < 1e-6
    by_row = torch.stack([masked(row, 0.4) for row in weight])
    assert float(torch.linalg.svdvals(by_row)[-1]) > 0.1


def test_an_error_need_not_be_handed_on() -> None:
    """The bound of Theorem 3.2 drops a cross term: pruning can undo what the inputs lost."""
    weight, pruned = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    inputs, damaged = torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0], [1.0]])
    before = float((inputs - damaged).square().sum())
    after = float((weight @ inputs - pruned @ damaged).square().sum())
    least = float(torch.linalg.svdvals(pruned)[-1])
    assert after == 0.0 < least**2 * before


# --- Theorem 3.5 ---------------------------------------------------------------------------------


def errors(rates: Sequence[float], c: float, a: float) -> list[float]:
    """L_{i+1} = c·L_i + exp(a·s_{i+1})."""
    found = [0.0]
    for rate in rates:
        found.append(c * found[-1] + math.exp(a * rate))
    return found[1:]


RATES = st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12)


@given(RATES, st.floats(1.001, 2.0), st.floats(0.1, 8.0))
def test_sorting_never_raises_the_total(rates: list[float], c: float, a: float) -> None:
    total = sum(errors(rates, c, a))
    assert sum(errors(sorted(rates), c, a)) <= total * (1 + 1e-9)
    assert sum(errors(sorted(rates, reverse=True), c, a)) >= total * (1 - 1e-9)


def test_a_progression_does_not_beat_every_other_schedule() -> None:
    blocks, target = 12, 0.7
    steep = [target + 0.05 * (i - (blocks - 1) / 2) for i in range(blocks)]
    nearly = [target] * blocks
    nearly[5], nearly[6] = target + 0.001, target - 0.001
    assert nearly != sorted(nearly)
    assert sum(errors(steep, 1.01, 8.0)) > sum(errors(nearly, 1.01, 8.0))


@settings(max_examples=60)
@given(
    st.floats(1.01, 1.5),
    st.floats(2.0, 8.0),
    st.lists(st.floats(-0.05, 0.05), min_size=8, max_size=8),
)
def test_a_straight_line_is_best_for_exponential_errors(
    c: float, a: float, changes: list[float]
) -> None:
    beta, blocks = math.log(c) / a, len(changes)
    line = [0.6 + beta * (i - (blocks - 1) / 2) for i in range(blocks)]
    mean = sum(changes) / blocks
    other = [rate + change - mean for rate, change in zip(line, changes, strict=True)]
    assert errors(line, c, a)[-1] <= errors(other, c, a)[-1] * (1 + 1e-12)
