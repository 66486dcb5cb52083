"""RIA on figures that can be worked out by hand."""

from __future__ import annotations

import torch
from atp_core.engine.statistics import ColumnNorms

from atp_ria_staircase._ria import RIA, relative_importance

WEIGHT = torch.tensor([[1.0, -3.0], [4.0, 2.0]])


def seen(*batches: list[list[float]]) -> ColumnNorms:
    statistics = RIA().statistics(len(batches[0][0]), torch.device("cpu"))
    for batch in batches:
        statistics.add(torch.tensor(batch), 1)
    return statistics


def test_relative_importance() -> None:
    # Columns add up to 5 and 5, rows to 4 and 6.
    expected = torch.tensor([[1 / 5 + 1 / 4, 3 / 5 + 3 / 4], [4 / 5 + 4 / 6, 2 / 5 + 2 / 6]])
    assert torch.allclose(relative_importance(WEIGHT), expected)


def test_inputs_are_weighed() -> None:
    # Norms over both batches are 625 and 1, so the factors are 25 and 1: scores of 11.25 and 1.35
    # in the first row, 36.7 and 0.73 in the second.
    verdict = RIA().prune(WEIGHT, 0.5, seen([[375.0, 1.0]], [[500.0, 0.0]]))
    assert verdict.mask.tolist() == [[True, False], [True, False]]
    assert not verdict.notes


def test_without_inputs_the_shares_decide() -> None:
    verdict = RIA().prune(WEIGHT, 0.5, None)
    assert verdict.mask.tolist() == [[False, True], [True, False]]
    assert verdict.notes == [
        "no calibration token reached this weight; its inputs were not weighed"
    ]


def test_the_exponent_is_a_half() -> None:
    # The only row: shares of 1 + 1/7 and, twice, 1 + 3/7, which is 1.25 times as much. The root of
    # a norm of 1.5 is 1.22 and does not make up for it, that of 1.6 is 1.26 and does.
    weight = torch.tensor([[1.0, 3.0, 3.0]])
    for norm, kept in ((1.5, False), (1.6, True)):
        mask = RIA().prune(weight, 1 / 3, seen([[norm, 1.0, 1.0]])).mask
        assert bool(mask[0, 0]) is kept


def test_scores_are_compared_over_the_whole_matrix() -> None:
    # The two lowest of six are in one row; by row, each would lose one.
    weight = torch.tensor([[9.0, 0.1, 0.1], [3.0, 3.0, 3.0]])
    mask = RIA().prune(weight, 1 / 3, seen([[1.0, 1.0, 1.0]])).mask
    assert mask.tolist() == [[True, False, False], [True, True, True]]


def test_a_row_of_zeros_is_cut_first() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    mask = RIA().prune(weight, 0.5, seen([[1.0, 1.0]])).mask
    assert mask.tolist() == [[False, False], [True, True]]
