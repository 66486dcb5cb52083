"""Pruning methods against plain implementations of what was published."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import plain_sparsegpt, plain_wanda, zeros_per_block

from atp_core.engine.statistics import ColumnNorms, Gram
from atp_core.errors import NumericalError
from atp_core.methods.magnitude import Magnitude
from atp_core.methods.rounding import row_counts, total_count
from atp_core.methods.selection import keep_highest, keep_highest_per_row
from atp_core.methods.sparsegpt import SparseGPT
from atp_core.methods.wanda import UNSEEN, Wanda

CPU = torch.device("cpu")
METHODS = [Magnitude(), Wanda(), SparseGPT()]


def correlated(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    """Inputs whose features differ in scale and depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(tokens, width, generator=generator)
    mix = torch.randn(width, width, generator=generator) / math.sqrt(width)
    scale = torch.rand(width, generator=generator).mul(3).exp()
    return (base @ mix + 0.3 * base) * scale


def statistics_of(method: Any, *batches: torch.Tensor) -> Any:
    statistics = method.statistics(batches[0].shape[1], CPU)
    if statistics is not None:
        for batch in batches:
            statistics.add(batch, 1)
    return statistics


def weight_of(rows: int, columns: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.66, 0.9])
@pytest.mark.parametrize("shape", [(40, 96), (17, 31), (64, 300)])
def test_wanda_equals_the_published_algorithm(shape: tuple[int, int], rate: float) -> None:
    weight = weight_of(*shape)
    batches = [correlated(50, shape[1], seed) for seed in range(4)]
    verdict = Wanda().prune(weight, rate, statistics_of(Wanda(), *batches))
    zeros = (~verdict.mask).sum(1)
    assert verdict.weight is None
    assert int(zeros.sum()) == round(rate * weight.numel())
    assert int(zeros.max() - zeros.min()) <= 1
    assert torch.equal(verdict.mask, plain_wanda(weight, batches, zeros))


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(40, 96), (33, 300)])
def test_sparsegpt_equals_the_published_algorithm(shape: tuple[int, int], rate: float) -> None:
    weight = weight_of(*shape)
    batches = [correlated(120, shape[1], seed) for seed in range(4)]
    batches = [batch.index_fill(1, torch.tensor([3]), 0.0) for batch in batches]  # a dead input
    verdict = SparseGPT().prune(weight, rate, statistics_of(SparseGPT(), *batches))
    assert int((~verdict.mask).sum()) == round(rate * weight.numel())
    mask, updated = plain_sparsegpt(weight, batches, zeros_per_block(verdict.mask))
    assert torch.equal(verdict.mask, mask)
    assert verdict.weight is not None
    torch.testing.assert_close(verdict.weight, updated, rtol=1e-3, atol=1e-4)


def test_magnitude_compares_the_whole_matrix() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0], [0.1, -0.2, 0.3]])
    mask = Magnitude().prune(weight, 0.5, None).mask
    assert mask.tolist() == [[True, True, True], [False, False, False]]


def test_better_informed_methods_reconstruct_better() -> None:
    """On inputs of the same distribution that no method has seen."""
    weight = weight_of(48, 160)
    inputs, held = correlated(800, 160).chunk(2)
    errors = {}
    for method in METHODS:
        verdict = method.prune(weight, 0.6, statistics_of(method, inputs))
        pruned = (weight if verdict.weight is None else verdict.weight) * verdict.mask
        errors[method.name] = float((held @ (pruned - weight).T).square().sum())
    assert errors["sparsegpt"] < errors["wanda"] < errors["magnitude"]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
class TestAll:
    """What every method keeps to."""

    def test_rates_zero_and_one(self, method: Any) -> None:
        weight = weight_of(12, 20)
        statistics = statistics_of(method, correlated(30, 20))
        none = method.prune(weight, 0.0, statistics)
        assert none.mask.all() and none.weight is None
        assert not method.prune(weight, 1.0, statistics).mask.any()

    def test_the_input_is_left_alone(self, method: Any) -> None:
        weight = weight_of(12, 20)
        before = weight.clone()
        method.prune(weight, 0.5, statistics_of(method, correlated(30, 20)))
        assert torch.equal(weight, before)

    def test_ties_still_give_the_exact_count(self, method: Any) -> None:
        weight = torch.ones(10, 30)
        verdict = method.prune(weight, 0.37, statistics_of(method, torch.ones(40, 30)))
        assert int((~verdict.mask).sum()) == 111

    def test_the_same_twice(self, method: Any) -> None:
        weight = weight_of(12, 20)
        first, second = (
            method.prune(weight, 0.5, statistics_of(method, correlated(30, 20))) for _ in "ab"
        )
        assert torch.equal(first.mask, second.mask)
        assert (first.weight is None) == (second.weight is None)
        if first.weight is not None:
            assert torch.equal(first.weight, second.weight)

    @pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
    def test_a_rate_that_is_none(self, method: Any, rate: float) -> None:
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            method.prune(weight_of(4, 4), rate, statistics_of(method, correlated(9, 4)))


@pytest.mark.parametrize("method", [Wanda(), SparseGPT()], ids=lambda m: m.name)
def test_an_unseen_weight_is_pruned_by_magnitude_and_told(method: Any) -> None:
    weight = weight_of(6, 10)
    for statistics in (None, method.statistics(10, CPU)):
        verdict = method.prune(weight, 0.5, statistics)
        assert verdict.notes == [UNSEEN]
        expected = keep_highest_per_row(weight.abs(), row_counts(6, 10, 0.5))
        assert torch.equal(verdict.mask, expected)


class TestFactorization:
    """SparseGPT never prunes with a matrix that could not be factorized."""

    def test_damping_is_raised_and_told(self) -> None:
        statistics = Gram(6, CPU)
        statistics.add(correlated(20, 6), 1)
        # Rounding can leave a Gram matrix with a negative eigenvalue; here it is made on purpose.
        values, vectors = torch.linalg.eigh(statistics.matrix)
        values[0] = -0.05 * statistics.matrix.diagonal().mean()
        statistics.matrix = vectors @ values.diag() @ vectors.T
        verdict = SparseGPT().prune(weight_of(4, 6), 0.5, statistics)
        [note] = verdict.notes
        assert "damping 0.1 was used" in note
        assert int((~verdict.mask).sum()) == 12
        assert verdict.weight is not None and bool(verdict.weight.isfinite().all())

    def test_one_that_never_works_is_an_error(self) -> None:
        statistics = Gram(3, CPU)
        statistics.add(torch.eye(3), 1)
        statistics.matrix = torch.tensor([[1.0, 1e6, 0.0], [1e6, 1.0, 0.0], [0.0, 0.0, 1.0]])
        with pytest.raises(NumericalError, match="--method wanda"):
            SparseGPT().prune(weight_of(2, 3), 0.5, statistics)

    def test_it_is_done_once_for_weights_that_share_inputs(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        real = torch.linalg.cholesky_ex
        monkeypatch.setattr(
            torch.linalg, "cholesky_ex", lambda *a, **k: calls.append(1) or real(*a, **k)
        )
        statistics = statistics_of(SparseGPT(), correlated(50, 8))
        for seed in range(3):
            SparseGPT().prune(weight_of(4, 8, seed), 0.5, statistics)
        assert len(calls) == 2

    def test_more_inputs_ask_for_another_factor(self) -> None:
        weight, first, second = weight_of(6, 40), correlated(90, 40), correlated(90, 40, 5)
        statistics = statistics_of(SparseGPT(), first)
        SparseGPT().prune(weight, 0.5, statistics)
        statistics.add(second, 1)
        late = SparseGPT().prune(weight, 0.5, statistics).weight
        assert late is not None
        fresh = SparseGPT().prune(weight, 0.5, statistics_of(SparseGPT(), first, second)).weight
        assert torch.equal(late, fresh)


class TestRounding:
    """Whole numbers of weights."""

    @given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1))
    def test_rows_add_up(self, rows: int, columns: int, rate: float) -> None:
        counts = row_counts(rows, columns, rate)
        assert int(counts.sum()) == total_count(rows * columns, rate)
        assert abs(int(counts.sum()) - rate * rows * columns) <= 0.5
        assert int(counts.max() - counts.min()) <= 1
        assert int(counts.min()) >= 0 and int(counts.max()) <= columns

    @given(
        st.integers(1, 8),
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=24),
        st.floats(0, 1),
        st.randoms(use_true_random=False),
    )
    def test_selection_equals_a_stable_sort(
        self, rows: int, values: list[float], rate: float, random: Any
    ) -> None:
        scores = torch.tensor([random.sample(values, len(values)) for _ in range(rows)])
        counts = row_counts(rows, len(values), rate)
        mask = keep_highest_per_row(scores, counts)
        order = scores.argsort(dim=1, stable=True)
        for row in range(rows):
            dropped = set(order[row, : int(counts[row])].tolist())
            assert dropped == set((~mask[row]).nonzero().flatten().tolist())
        flat = keep_highest(scores, int(counts.sum()))
        wanted = scores.flatten().argsort(stable=True)[: int(counts.sum())]
        assert set(wanted.tolist()) == set((~flat.flatten()).nonzero().flatten().tolist())


class TestStatistics:
    """Accumulators."""

    def test_column_norms(self) -> None:
        batches = [correlated(20, 5, seed) for seed in range(3)]
        norms = ColumnNorms(5, CPU)
        for batch in batches:
            norms.add(batch, 2)
        torch.testing.assert_close(norms.squares, torch.cat(batches).square().sum(0))
        assert (norms.tokens, norms.sequences) == (60, 6)
        assert norms.finite()
        norms.add(torch.full((1, 5), float("inf")), 1)
        assert not norms.finite()

    def test_gram(self) -> None:
        batches = [correlated(20, 5, seed) for seed in range(3)]
        gram = Gram(5, CPU)
        for batch in batches:
            gram.add(batch, 1)
        everything = torch.cat(batches)
        torch.testing.assert_close(gram.matrix, everything.T @ everything)
        assert gram.finite()
        gram.add(torch.full((1, 5), float("nan")), 1)
        assert not gram.finite()
