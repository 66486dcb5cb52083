"""Figures and identities that plugins share, against plain computations."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
import torch

from atp_core.measuring import (
    Figure,
    calibration_error,
    distinct,
    mean_figure,
    metric_of,
    ratio,
    share_figure,
    spelt_out,
)


def test_identities_that_occur_again_are_told_apart() -> None:
    assert distinct(["a", "b", "a", "c", "a"]) == ["a", "b", "a#2", "c", "a#3"]
    assert distinct([]) == []


def test_groups_are_spelt_out_in_their_place_and_names_once() -> None:
    groups = {"per_class": ["top1/a", "top1/b"]}
    names = ["top1", "per_class", "ece", "top1/a", "top1"]
    assert spelt_out(names, groups) == ["top1", "top1/a", "top1/b", "ece"]


def test_the_error_of_a_ratio_of_equal_weights_is_that_of_a_mean() -> None:
    values = [0.5, 1.5, 4.0, 2.0, 2.5]
    mean, error = ratio([3 * value for value in values], [3.0] * 5)
    assert mean == pytest.approx(2.1)
    assert error == pytest.approx(statistics.stdev(values) / 5**0.5)
    assert ratio([4.0], [2.0]) == (2.0, None)


def test_the_error_of_a_ratio_is_how_far_it_scatters() -> None:
    """Over many draws of documents whose loss a token goes with their length."""
    generator = random.Random(0)
    found, told = [], []
    for _ in range(400):
        tokens = [generator.randint(5, 50) for _ in range(60)]
        nats = [n * (2 + n / 100) + generator.gauss(0, n**0.5) for n in tokens]
        mean, error = ratio(nats, tokens)
        found.append(mean)
        told.append(error or 0.0)
    assert statistics.mean(told) == pytest.approx(statistics.stdev(found), rel=0.1)


def test_calibration_error_by_hand() -> None:
    # Two bins: (0, ½] holds 0.4 right and 0.5 wrong, (½, 1] holds 0.9 right and 1.0 right.
    found = calibration_error([0.4, 0.5, 0.9, 1.0], [True, False, True, True], bins=2)
    assert found == pytest.approx(0.5 * abs(0.45 - 0.5) + 0.5 * abs(0.95 - 1.0))
    assert calibration_error([0.3, 1.0, 1.0 + 1e-9], [False, True, True]) == pytest.approx(0.1)


def test_calibration_error_equals_its_definition() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.05, 1.0, 5000)
    right = generator.uniform(size=5000) < confidence**2
    place = np.digitize(confidence, np.linspace(0, 1, 16), right=True)
    expected = 0.0
    for one in range(1, 16):
        inside = place == one
        gap = abs(right[inside].mean() - confidence[inside].mean()) if inside.any() else 0.0
        expected += inside.mean() * gap
    found = calibration_error(confidence.tolist(), right.tolist())
    assert found == pytest.approx(expected, rel=1e-9)
    assert 0.1 < found < 0.3  # E[c − c²] = 1/6


def test_a_mean_by_hand() -> None:
    found = mean_figure(torch.tensor([1.0, 2.0, 6.0]), ["a", "b", "c"], "nats", "so")
    assert (found.value, found.n, found.unit, found.note) == (3.0, 3, "nats", "so")
    assert found.stderr == pytest.approx(statistics.stdev([1, 2, 6]) / 3**0.5)
    assert not found.higher_is_better
    assert found.observations is not None
    assert (found.observations.ids, found.observations.values) == (["a", "b", "c"], [1, 2, 6])
    assert mean_figure(torch.tensor([1.0]), ["a"], "nats").stderr is None


def test_a_share_by_hand() -> None:
    found = share_figure([True, False, True, True], ["a", "b", "c", "d"])
    assert (found.value, found.n, found.unit, found.higher_is_better) == (75.0, 4, "%", True)
    assert found.stderr == pytest.approx(100 * (0.75 * 0.25 / 4) ** 0.5)
    assert found.observations is not None
    assert found.observations.values == [1.0, 0.0, 1.0, 1.0]
    assert found.observations.summary == "percent"
    assert share_figure([True], ["a"]).stderr is None
    assert share_figure([True, False], None).observations is None


def test_a_figure_becomes_a_metric() -> None:
    told = {"split": "report", "dataset": "d", "fingerprint": "f", "convention": "c"}
    one = metric_of("x", Figure(1.5, 0.5, 7, "%", True, note="of this"), seconds=2.0, **told)
    assert (one.value, one.stderr, one.n, one.unit, one.higher_is_better) == (
        1.5,
        0.5,
        7,
        "%",
        True,
    )
    assert (one.split, one.dataset, one.fingerprint, one.seconds) == ("report", "d", "f", 2.0)
    assert one.convention == "of this; c"
    assert metric_of("y", Figure(1.5, None, 7, "%"), seconds=0.0, **told).convention == "c"
