"""Allocations meet the budget exactly, for any sizes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from atp_core.allocation import AllocationRequest
from atp_core.allocation.atp import ATP
from atp_core.allocation.budget import beta_max, solve_intercept, unweighted_mean, weighted_mean
from atp_core.allocation.file import from_file
from atp_core.allocation.uniform import Uniform
from atp_core.errors import UsageError
from atp_core.records import Block, Chain, Schedule

sizes = st.lists(st.integers(1, 10**8), min_size=1, max_size=40)
rates = st.floats(0.0, 1.0)
fractions = st.floats(0.0, 1.0)


class Sized(Block):
    """A block that is nothing but a size."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name, nn.Identity(), [])
        self.size = size

    @property
    def parameters(self) -> int:
        return self.size


def chain_of(counts: list[int], name: str = "main") -> Chain:
    return Chain(name, [Sized(f"{name}.{i}", count) for i, count in enumerate(counts)])


def allocate(counts: list[int], sparsity: float, beta: float) -> list[float]:
    chain = chain_of(counts)
    request = AllocationRequest([chain], {"main": sparsity}, {"beta": beta})
    return ATP().allocate(request).of(chain)


@given(sizes, rates, fractions)
def test_budget_is_met_and_rates_rise(counts: list[int], sparsity: float, part: float) -> None:
    beta = part * beta_max(sparsity, len(counts))
    found = allocate(counts, sparsity, beta)
    assert weighted_mean(counts, found) == pytest.approx(sparsity, abs=1e-9)
    assert all(0.0 <= rate <= 1.0 for rate in found)
    assert all(a <= b + 1e-12 for a, b in pairwise(found))


@given(st.integers(2, 80), st.integers(1, 10**9), rates, fractions)
def test_equal_blocks_give_the_papers_formula(
    blocks: int, size: int, sparsity: float, part: float
) -> None:
    """Eq. 10: s_i = S − β(L−1)/2 + β(i−1)."""
    beta = part * beta_max(sparsity, blocks)
    found = allocate([size] * blocks, sparsity, beta)
    expected = [sparsity - beta * (blocks - 1) / 2 + beta * i for i in range(blocks)]
    assert found == pytest.approx(expected, rel=0, abs=1e-12)


@given(sizes, rates)
def test_beta_zero_is_uniform(counts: list[int], sparsity: float) -> None:
    assert allocate(counts, sparsity, 0.0) == pytest.approx([sparsity] * len(counts), abs=1e-9)


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(-3, 3)), min_size=1, max_size=30), rates
)
def test_any_offsets_meet_the_budget(blocks: list[tuple[int, float]], sparsity: float) -> None:
    counts, offsets = [n for n, _ in blocks], [o for _, o in blocks]
    found = solve_intercept(counts, offsets, sparsity)
    assert weighted_mean(counts, found) == pytest.approx(sparsity, abs=1e-9)
    assert all(0.0 <= rate <= 1.0 for rate in found)


def test_unequal_blocks_meet_the_weighted_mean_not_the_papers() -> None:
    counts = [1, 1, 10, 10]
    found = allocate(counts, 0.5, 0.1)
    assert weighted_mean(counts, found) == pytest.approx(0.5, abs=1e-12)
    assert unweighted_mean(found) < 0.5 - 0.05
    steps = [b - a for a, b in pairwise(found)]
    assert steps == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(
    ("sparsity", "blocks", "limit"),
    [(0.7, 32, 0.01935), (0.7, 80, 0.0076), (0.5, 2, 1.0), (0.3, 31, 0.02), (0.5, 1, 0.0)],
)
def test_range_of_beta(sparsity: float, blocks: int, limit: float) -> None:
    assert beta_max(sparsity, blocks) == pytest.approx(limit, abs=1e-5)


@pytest.mark.parametrize("beta", [-0.001, 0.0201, float("nan"), None, "0.01"])
def test_illegal_beta_names_the_range(beta: float) -> None:
    with pytest.raises(UsageError, match=r"0\.02\]|needs a number|finite"):
        allocate([5] * 31, 0.3, beta)


def test_one_block_takes_any_beta_but_a_negative_one() -> None:
    assert allocate([5], 0.3, 0.4) == pytest.approx([0.3])
    with pytest.raises(UsageError, match="lies outside"):
        allocate([5], 0.3, -0.1)


def test_every_chain_gets_its_own_progression_and_budget() -> None:
    chains = [chain_of([4] * 3, "vision"), chain_of([9] * 5, "text")]
    request = AllocationRequest(chains, {"vision": 0.6, "text": 0.4}, {"beta": 0.1})
    schedule = ATP().allocate(request)
    assert schedule.of(chains[0]) == pytest.approx([0.5, 0.6, 0.7])
    assert schedule.of(chains[1]) == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6])
    assert schedule.sparsity == pytest.approx((0.6 * 12 + 0.4 * 45) / 57)


def test_unknown_options_are_named() -> None:
    request = AllocationRequest([chain_of([1, 1])], {"main": 0.5}, {"betta": 0.1})
    for allocator in (ATP(), Uniform()):
        with pytest.raises(UsageError, match="betta"):
            allocator.allocate(request)


class TestFile:
    """A schedule as a file."""

    def test_round_trip(self, tmp_path: Path) -> None:
        chain = chain_of([3, 5, 7])
        request = AllocationRequest([chain], {"main": 0.5}, {"beta": 0.1})
        schedule = ATP().allocate(request)
        path = tmp_path / "schedule.json"
        path.write_text(json.dumps(schedule.to_dict()))
        assert from_file(path) == schedule
        assert from_file(path).digest == schedule.digest

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("{", "not JSON"),
            ("[]", "not a schedule"),
            ('{"rates": {"a": {"b": 2}}, "sparsity": 0.5, "allocation": "x"}', "outside"),
            ('{"sparsity": 0.5}', "not a schedule"),
        ],
    )
    def test_what_is_no_schedule_is_refused(self, tmp_path: Path, text: str, told: str) -> None:
        path = tmp_path / "schedule.json"
        path.write_text(text)
        with pytest.raises(UsageError, match=told):
            from_file(path)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot read"):
            from_file(tmp_path / "none.json")

    def test_another_models_schedule_is_refused(self) -> None:
        schedule = Schedule({"main": {"main.0": 0.5}}, 0.5, "atp")
        with pytest.raises(UsageError, match=r"main\.1"):
            schedule.of(chain_of([1, 1]))
