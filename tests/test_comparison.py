"""Paired comparisons: intervals that cover, verdicts that hold, against formulas known by hand."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest

from atp_core.evaluation.comparison import compare, compare_all
from atp_core.records import Metric, Observations


def metric(value: float, unit: str = "%", higher: bool = True, **changes: Any) -> Metric:
    settings: dict[str, Any] = {
        "name": "top1",
        "value": value,
        "stderr": None,
        "n": 4,
        "unit": unit,
        "higher_is_better": higher,
        "split": "report",
        "dataset": "images",
        "fingerprint": "f",
        "convention": "c",
    }
    return Metric(**{**settings, **changes})


def seen(
    values: Any, summary: Literal["mean", "percent", "exp"] = "percent", weights: Any = None
) -> list[Observations]:
    return [Observations([f"d{i}" for i in range(len(values))], list(values), weights, summary)]


def test_the_interval_of_a_share_is_that_of_the_formula() -> None:
    """Standard error of a mean of paired differences: std / √n, known without resampling."""
    generator = np.random.default_rng(0)
    theirs = (generator.random(400) < 0.8).astype(float)
    mine = np.where(generator.random(400) < 0.1, 1 - theirs, theirs)
    found = compare(
        metric(100 * mine.mean()), metric(100 * theirs.mean()), seen(mine), seen(theirs), "dense"
    )
    difference = 100 * (mine - theirs)
    exact = difference.std(ddof=1) / math.sqrt(400)
    assert found.stderr == pytest.approx(exact, rel=0.03)
    assert found.interval is not None
    low, high = found.interval
    assert low == pytest.approx(difference.mean() - 1.96 * exact, abs=0.2)
    assert high == pytest.approx(difference.mean() + 1.96 * exact, abs=0.2)
    assert found.difference == pytest.approx(difference.mean())
    assert found.n == 400


def test_pairing_is_worth_more_than_two_standard_errors() -> None:
    """Two models that differ on few documents are told apart although their errors overlap."""
    theirs = np.array([1.0] * 300 + [0.0] * 100)
    mine = theirs.copy()
    mine[:12] = 0.0  # 3 points worse, and each figure is uncertain by 2.2
    found = compare(metric(72.0), metric(75.0), seen(mine), seen(theirs), "dense")
    assert found.verdict == "worse"
    assert found.text.startswith("worse by 3.0 ± 0.")
    assert found.text.endswith("points")


def test_within_noise_and_equal() -> None:
    theirs = np.array([1.0, 0.0] * 50)
    mine = theirs.copy()
    mine[0], mine[1], mine[2] = 0.0, 1.0, 0.0
    found = compare(metric(49.0), metric(50.0), seen(mine), seen(theirs), "dense")
    assert found.verdict == "within noise"
    assert found.interval is not None and found.interval[0] < 0 < found.interval[1]
    same = compare(metric(50.0), metric(50.0), seen(theirs), seen(theirs), "dense")
    assert (same.verdict, same.text, same.interval) == ("within noise", "equal", (0.0, 0.0))


def test_perplexity_is_weighted_and_exponentiated() -> None:
    """By the delta method: d exp(m) = exp(m) dm, with m a mean weighted by tokens."""
    generator = np.random.default_rng(1)
    tokens = generator.integers(50, 150, 200).astype(float)
    theirs = generator.normal(3.0, 0.3, 200)
    mine = theirs + 0.2 + generator.normal(0.0, 0.02, 200)
    figures = [float(np.exp((x * tokens).sum() / tokens.sum())) for x in (mine, theirs)]
    found = compare(
        metric(figures[0], "per token", higher=False),
        metric(figures[1], "per token", higher=False),
        seen(mine, "exp", list(tokens)),
        seen(theirs, "exp", list(tokens)),
        "dense",
    )
    assert found.verdict == "worse"
    assert found.interval is not None
    assert found.interval[0] < figures[0] - figures[1] < found.interval[1]
    # Both move together: the ratio is exp(0.2), known far better than either figure.
    assert found.stderr is not None and found.stderr < 0.2
    assert "(+22." in found.text


@pytest.mark.parametrize(
    ("higher", "verdict"), [(True, "better"), (False, "worse")], ids=["accuracy", "loss"]
)
def test_the_direction_decides(higher: bool, verdict: str) -> None:
    theirs = np.zeros(50)
    mine = np.ones(50)
    found = compare(
        metric(1.0, "nats", higher), metric(0.0, "nats", higher),
        seen(mine, "mean"), seen(theirs, "mean"), "dense",
    )  # fmt: skip
    assert found.verdict == verdict


def test_coverage_of_the_interval() -> None:
    """Of many experiments, about 95 % of the intervals hold the true difference."""
    held = 0
    for trial in range(120):
        generator = np.random.default_rng(trial)
        theirs = generator.normal(0.0, 1.0, 80)
        mine = theirs + generator.normal(0.1, 0.5, 80)
        found = compare(
            metric(float(mine.mean()), "nats"), metric(float(theirs.mean()), "nats"),
            seen(mine, "mean"), seen(theirs, "mean"), "dense", seed=trial,
        )  # fmt: skip
        assert found.interval is not None
        held += found.interval[0] <= 0.1 <= found.interval[1]
    assert 106 <= held <= 119


def test_a_mean_of_tasks_resamples_within_each() -> None:
    generator = np.random.default_rng(2)
    ours, theirs = [], []
    for i, n in enumerate((50, 400)):
        right = (generator.random(n) < 0.6).astype(float)
        ours += [Observations([f"{i}:{j}" for j in range(n)], list(right))]
        theirs += [Observations([f"{i}:{j}" for j in range(n)], list(1 - right))]
    means = [float(np.mean([np.mean(o.values) for o in side])) for side in (ours, theirs)]
    found = compare(
        metric(means[0], "fraction"), metric(means[1], "fraction"), ours, theirs, "dense"
    )
    exact = 0.5 * math.sqrt(
        sum(np.var([2 * v for v in o.values], ddof=1) / len(o.values) for o in ours)
    )
    assert found.stderr == pytest.approx(exact, rel=0.03)
    assert found.n == 450


def test_order_of_documents_does_not_matter_and_seeds_repeat() -> None:
    values = np.arange(30.0)
    shuffled = Observations(
        [f"d{i}" for i in reversed(range(30))], list(values[::-1] + 1.0), None, "mean"
    )
    a, b = metric(15.5, "nats"), metric(14.5, "nats")
    one = compare(a, b, [shuffled], seen(values, "mean"), "dense")
    assert one.stderr == pytest.approx(0.0, abs=1e-9)
    assert one.interval == pytest.approx((1.0, 1.0))
    again = compare(a, b, [shuffled], seen(values, "mean"), "dense")
    assert one == again


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"fingerprint": "other"}, {}),
        ({"convention": "other"}, {}),
    ],
)
def test_other_data_is_not_compared(mine: Any, theirs: Any) -> None:
    found = compare(metric(1.0, **mine), metric(2.0, **theirs), seen([1.0]), seen([0.0]), "dense")
    assert found.verdict == "not comparable"
    assert found.interval is None


def test_other_documents_and_figures_without_observations_are_not_compared() -> None:
    other = [Observations(["x"], [1.0], None, "percent")]
    found = compare(metric(1.0), metric(2.0), seen([1.0]), other, "dense")
    assert (found.verdict, found.text) == ("not comparable", "measured on other documents")
    found = compare(metric(1.0), metric(2.0), [], [], "dense")
    assert (found.verdict, found.interval) == ("not comparable", None)
    assert "-1 points" in found.text


def test_only_what_both_have_is_compared() -> None:
    found = compare_all(
        {"a": metric(1.0, name="a"), "b": metric(1.0, name="b")},
        {"b": metric(0.0, name="b"), "c": metric(0.0, name="c")},
        {"b": seen([1.0, 1.0])}, {"b": seen([0.0, 0.0])}, "dense",
    )  # fmt: skip
    assert [one.metric for one in found] == ["b"]
    assert found[0].reference == "dense"
