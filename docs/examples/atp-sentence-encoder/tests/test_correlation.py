"""Rank correlations on figures that can be worked out by hand."""

from __future__ import annotations

import math
from statistics import mean, stdev

import pytest
import torch
from torch.nn import functional

from atp_sentence_encoder._correlation import cosine, rank_correlation, similarity_correlation


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # 1 - 6 Σ d² / n(n² - 1), where no values are equal
        (vector(1, 2, 3, 4), vector(10, 20, 30, 1000), 1.0),
        (vector(1, 2, 3, 4), vector(4, 3, 2, 1), -1.0),
        (vector(1, 2, 3, 4), vector(1, 2, 4, 3), 0.8),
        # Ranks 1, 2.5, 2.5, 4 beside 1, 2, 3, 4: 4.5 / √(4.5 · 5)
        (vector(1, 5, 5, 9), vector(1, 2, 3, 4), math.sqrt(0.9)),
        (vector(7, 7, 7, 7), vector(1, 2, 3, 4), 0.0),
    ],
)
def test_rank_correlation(one: torch.Tensor, other: torch.Tensor, expected: float) -> None:
    assert rank_correlation(one, other) == pytest.approx(expected, abs=1e-12)


def test_cosine_of_a_vector_with_itself_is_one_to_the_last_bit() -> None:
    rows = torch.randn(1000, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert bool((cosine(rows, rows) == 1.0).all())
    assert float(cosine(rows[0], torch.zeros(7, dtype=torch.float64))) == 0.0


def test_a_model_agrees_with_itself_without_error() -> None:
    rows = torch.randn(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    embeddings = functional.normalize(rows, dim=1)
    assert similarity_correlation(embeddings, embeddings) == (1.0, 0.0)


def test_only_pairs_of_different_sentences_count() -> None:
    one = functional.normalize(vector(1, 0, 1, 1, 0, 1).view(3, 2), dim=1)
    other = functional.normalize(vector(1, 0, 1, 2, 0, 1).view(3, 2), dim=1)
    # Three pairs: cosines 0.71, 0, 0.71 beside 0.45, 0, 0.89; ranks 2.5, 1, 2.5 beside 2, 1, 3.
    assert similarity_correlation(one, other)[0] == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_the_standard_error_is_the_spread_over_samples() -> None:
    """What one sample of sentences tells of the spread over samples is right on average."""
    generator = torch.Generator().manual_seed(0)
    values, errors = [], []
    for _ in range(150):
        rows = torch.randn(40, 6, dtype=torch.float64, generator=generator)
        noise = torch.randn(40, 6, dtype=torch.float64, generator=generator)
        value, error = similarity_correlation(
            functional.normalize(rows, dim=1), functional.normalize(rows + 0.7 * noise, dim=1)
        )
        values.append(value)
        errors.append(error)
    assert mean(errors) == pytest.approx(stdev(values), rel=0.25)
