"""Bits per block: budgets, progressions, rounding."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atp_core.errors import UsageError
from atp_quant._bits import (
    WIDTHS,
    average,
    beta_limit,
    bits_from,
    progression,
    round_bits,
)


def test_the_progression_falls_by_beta_around_the_budget() -> None:
    assert progression([10] * 5, 4.0, 0.5, WIDTHS) == pytest.approx([5, 4.5, 4, 3.5, 3])


def test_the_progression_meets_the_weighted_budget() -> None:
    sizes = [1, 2, 3]
    bits = progression(sizes, 4.0, 0.6, WIDTHS)
    # c − β·Σ n_i·(i−1)/Σ n_i = 4 with c = 4 + 0.6·(2·1 + 3·2)/6
    assert bits == pytest.approx([4.8, 4.2, 3.6])
    assert average(sizes, bits) == pytest.approx(4.0)


def test_what_clamping_takes_is_spread_over_the_others() -> None:
    bits = progression([30, 1, 1], 3.0, 1.0, WIDTHS)
    # The last block would have less than 2 bits.
    assert bits[2] >= 2.0
    assert average([30, 1, 1], bits) == pytest.approx(3.0)


def test_the_limit_of_beta_is_where_the_last_block_has_the_fewest_bits() -> None:
    assert beta_limit(4.0, 5, WIDTHS) == pytest.approx(1.0)  # 6, 5, 4, 3, 2
    assert progression([7] * 5, 4.0, 1.0, WIDTHS) == pytest.approx([6, 5, 4, 3, 2])
    assert beta_limit(7.0, 3, WIDTHS) == pytest.approx(1.0)  # 8, 7, 6
    assert beta_limit(2.0, 5, WIDTHS) == 0.0
    assert beta_limit(4.0, 5, (4,)) == 0.0
    with pytest.raises(UsageError, match=r"β = 1\.1 lies outside \[0, 1\]"):
        progression([7] * 5, 4.0, 1.1, WIDTHS)
    with pytest.raises(UsageError, match="cannot be met"):
        progression([7] * 5, 9.0, 0.0, WIDTHS)


def test_rounding_raises_the_largest_remainders() -> None:
    # 3, 4, 2 leave 0.9 + 0.2 + 0.4 = 1.5: one bit, for the first.
    assert round_bits([5, 5, 5], [3.9, 4.2, 2.4], WIDTHS) == [4, 4, 2]


def test_equal_remainders_are_raised_spread_over_the_depth() -> None:
    assert round_bits([1] * 8, [3.5] * 8, WIDTHS) == [4, 3] * 4
    assert round_bits([1] * 4, [3.0] * 4, WIDTHS) == [3] * 4


def test_wide_gaps_between_widths_are_respected() -> None:
    found = round_bits([1] * 4, [5.0] * 4, (2, 4, 8))
    assert sorted(found) == [4, 4, 4, 8]
    assert average([1] * 4, found) == 5.0


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 10_000), min_size=1, max_size=40),
    budget=st.floats(2.0, 8.0),
    share=st.floats(0.0, 1.0),
    widths=st.sampled_from([WIDTHS, (2, 3, 4, 8), (2, 4, 8)]),
)
def test_the_budget_is_never_exceeded_and_missed_by_less_than_a_block(
    sizes: list[int], budget: float, share: float, widths: tuple[int, ...]
) -> None:
    beta = share * beta_limit(budget, len(sizes), widths)
    real = progression(sizes, budget, beta, widths)
    found = round_bits(sizes, real, widths)
    assert set(found) <= set(widths)
    assert average(sizes, found) <= budget + 1e-6
    short = (budget - average(sizes, found)) * sum(sizes)
    gap = max(b - a for a, b in itertools.pairwise(widths))
    assert short <= max(sizes) * gap + 1e-3
    for width, bits in zip(found, real, strict=True):
        assert abs(width - bits) < gap + 1e-6


def test_a_file_gives_the_bits_of_every_block() -> None:
    data = {"bits": {"decoder": {"a": 4, "b": 2}}}
    assert bits_from(data, {"decoder": ["a", "b"]}, WIDTHS) == [4, 2]
    with pytest.raises(UsageError, match="none for block 'c' of chain 'decoder'"):
        bits_from(data, {"decoder": ["a", "c"]}, WIDTHS)
    with pytest.raises(UsageError, match="block b has 2 bits"):
        bits_from(data, {"decoder": ["a", "b"]}, (4, 8))
