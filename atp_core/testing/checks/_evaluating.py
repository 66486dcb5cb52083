"""Checks of `atp_evaluate`: metrics that can be compared, on data of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ..._session import Session
from ...errors import UsageError
from ...records import Evaluation, Metric, Observations, Split
from .._check import CheckFailed, CheckSkipped, checker, require
from .._walk import Walk, state_bits, uniform

__all__ = ["CHECKS"]

CHECKS: list[tuple[str, Callable[[Walk], None]]] = []
_check = checker(CHECKS)


def _pruned(walk: Walk, split: Split) -> tuple[Session, Evaluation]:
    """A session whose model is pruned, and what is measured of it on `split`."""
    session = walk.everything(method="magnitude")
    session.see_dense(split)
    session.prune(uniform(session.chains, 0.3), session.method(), "evaluate")
    return session, session.evaluate(split)


@_check("is measured on the search split, in full")
def _search(walk: Walk) -> None:
    session = walk.session()
    found = session.evaluate("search")
    require(bool(found.metrics), "nothing is measured on the search split: a search needs it")
    _complete(found, "search")
    _, pruned = _pruned(walk, "search")
    _complete(pruned, "search")
    first, after = found.metric(), pruned.metric()
    require(
        session.loaded.compares_on("search") or first.name == after.name,
        f"the objective is {first.name} on the dense model and {after.name} on the pruned one",
    )


@_check("is measured on the report split, in full")
def _report(walk: Walk) -> None:
    found = walk.session().evaluate("report")
    if not found.metrics:
        raise CheckSkipped("the example gives no report data, and the plugin has no default")
    _complete(found, "report")


def _complete(found: Evaluation, split: Split) -> None:
    names = [metric.name for metric in found.metrics]
    require(len(set(names)) == len(names), f"two metrics have one name: {names}")
    require(bool(found.examples), "Evaluation.examples is empty, so splits cannot be compared")
    for metric in found.metrics:
        what = f"metric {metric.name!r}"
        require(metric.split == split, f"{what} says it is of the {metric.split} split")
        require(math.isfinite(metric.value), f"{what} of a healthy model is {metric.value}")
        require(metric.n > 0, f"{what} rests on {metric.n} observations")
        require(
            metric.stderr is None or (math.isfinite(metric.stderr) and metric.stderr >= 0),
            f"the standard error of {what} is {metric.stderr}",
        )
        for field in ("unit", "dataset", "fingerprint", "convention"):
            require(bool(str(getattr(metric, field)).strip()), f"{what} has no {field}")
    for name, seen in found.observations.items():
        if name in names:
            _adds_up(found.metric(name), seen)


def _adds_up(metric: Metric, seen: Observations) -> None:
    """That a metric follows from what it is said to be made of."""
    what = f"the observations of metric {metric.name!r}"
    weights = seen.weights or [1.0] * len(seen.values)
    require(
        len(seen.ids) == len(seen.values) == len(weights) > 0,
        f"{what} are {len(seen.ids)} ids, {len(seen.values)} values and {len(weights)} weights",
    )
    require(len(set(seen.ids)) == len(seen.ids), f"{what} have an identity twice")
    mean = math.fsum(v * w for v, w in zip(seen.values, weights, strict=True)) / math.fsum(weights)
    value = {"mean": mean, "percent": 100 * mean}.get(seen.summary)
    value = math.exp(mean) if value is None else value
    require(
        math.isclose(value, metric.value, rel_tol=1e-6, abs_tol=1e-9),
        f"{what} come to {value}, and its value is {metric.value}",
    )


@_check("is measured the same twice, and left as it was")
def _pure(walk: Walk) -> None:
    session, first = _pruned(walk, "search")
    before = state_bits(session.loaded)
    again = session.evaluate("search")
    values = [[replace(metric, seconds=0.0) for metric in e.metrics] for e in (first, again)]
    require(values[0] == values[1], "measuring the same model twice gives different figures")
    require(state_bits(session.loaded) == before, "measuring changed the model")
    training = [n for n, part in session.loaded.model.named_modules() if part.training]
    require(not training, "measuring left the model in training mode")


@_check("measures only what is asked for")
def _restricted(walk: Walk) -> None:
    session, found = _pruned(walk, "search")
    for metric in found.metrics:
        only = session.evaluate("search", [metric.name])
        require(
            [m.name for m in only.metrics] == [metric.name],
            f"only {metric.name!r} was asked for and {[m.name for m in only.metrics]} came",
        )
        # Batches may be made up otherwise, which moves the last bits.
        require(
            math.isclose(only.metric().value, metric.value, rel_tol=1e-5),
            f"{metric.name} is {only.metric().value} alone and {metric.value} among others",
        )
    try:
        session.evaluate("search", ["no such metric"])
    except UsageError:
        return
    raise CheckFailed("an unknown metric was asked for, and no UnknownNameError was raised")


@_check("keeps calibration, search and report data apart")
def _apart(walk: Walk) -> None:
    # A session of its own for each, since one session refuses parts that overlap.
    parts = {
        "calibration": walk.session().calibration.examples,
        "search": walk.session().evaluate("search").examples,
        "report": walk.session().evaluate("report").examples,
    }
    for one, other in (("calibration", "search"), ("calibration", "report"), ("search", "report")):
        shared = parts[one] & parts[other]
        require(not shared, f"{one} and {other} data share {len(shared)} examples")
