"""Checks of an executor: every job is done, results find their jobs, and a failure is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from typing import Any

from ...errors import DataError, UsageError
from ...trials import Trial
from .._check import CheckFailed, checker, require
from ._offered import OfferSubject, built

__all__ = ["CHECKS"]

CHECKS: list[tuple[str, Callable[[OfferSubject], None]]] = []
_check = checker(CHECKS)

_JOBS = (0.0, 0.03, 0.01, 0.02, 0.01)


# Functions of a module, which can be sent to another process.


def _work(beta: float) -> Trial:
    return Trial(beta, 1.0 + beta, 0.0, "search", 1, f"{beta}", 0)


def _fail(beta: float) -> Trial:
    if beta == _JOBS[1]:
        raise DataError("this job fails on purpose")
    return _work(beta)


def _ran(
    executor: Any, work: Callable[[float], Trial], jobs: Sequence[float]
) -> list[tuple[int, Trial]]:
    """What became of jobs, with the executor closed after them."""
    with closing(executor) if hasattr(executor, "close") else nullcontext():
        return list(executor.run(work, list(jobs)))


def _complete(found: Sequence[tuple[int, Trial]]) -> None:
    require(len(found) == len(_JOBS), f"it did {len(found)} of {len(_JOBS)} jobs")
    for position, job in enumerate(_JOBS):
        results = [result for place, result in found if place == position]
        require(
            results == [_work(job)],
            f"of job {job}, at position {position}, it gave {results or 'nothing'}",
        )


@_check("is built, and has the name it is offered under")
def _built(subject: OfferSubject) -> None:
    built(subject)


@_check("does every job once, and gives each result with its position")
def _done(subject: OfferSubject) -> None:
    _complete(_ran(subject.build(), _work, _JOBS))


@_check("has nothing to do where there are no jobs")
def _empty(subject: OfferSubject) -> None:
    found = _ran(subject.build(), _work, [])
    require(found == [], f"of no jobs it made {len(found)} results")


@_check("passes on what a job raises")
def _raises(subject: OfferSubject) -> None:
    try:
        _ran(subject.build(), _fail, _JOBS)
    except DataError:
        return
    raise CheckFailed("a job raised DataError and the executor kept it to itself")


@_check("does jobs again once it was closed")
def _again(subject: OfferSubject) -> None:
    executor = subject.build()
    _ran(executor, _work, _JOBS[:1])
    _complete(_ran(executor, _work, _JOBS))


@_check("refuses options it does not have")
def _options(subject: OfferSubject) -> None:
    configure = getattr(subject.build(), "configure", None)
    if configure is None:
        return  # then core refuses every option
    try:
        configure({"no-such-option": 1})
    except UsageError:
        return
    raise CheckFailed("the option 'no-such-option' was passed over")
