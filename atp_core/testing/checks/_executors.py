"""Checks of an executor: every candidate is judged, in order, and a failure is told."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import DataError
from ...trials import Trial
from .._check import CheckFailed, checker, require
from ._offered import OfferSubject, built

__all__ = ["CHECKS"]

CHECKS: list[tuple[str, Callable[[OfferSubject], None]]] = []
_check = checker(CHECKS)

_CANDIDATES = (0.0, 0.03, 0.01, 0.02, 0.01)


# Functions of a module, which can be sent to another process.


def _judge(beta: float) -> Trial:
    return Trial(beta, 1.0 + beta, 0.0, "search", 1, f"{beta}", 0)


def _fail(beta: float) -> Trial:
    if beta == _CANDIDATES[1]:
        raise DataError("this trial fails on purpose")
    return _judge(beta)


@_check("is built, and has the name it is offered under")
def _built(subject: OfferSubject) -> None:
    built(subject)


@_check("judges every candidate, and answers in their order")
def _ordered(subject: OfferSubject) -> None:
    found = list(subject.build().run(_judge, list(_CANDIDATES)))
    betas = [trial.beta for trial in found]
    require(betas == list(_CANDIDATES), f"of the β's {list(_CANDIDATES)} it gave {betas}")
    require(
        [trial.objective for trial in found] == [1.0 + beta for beta in _CANDIDATES],
        "it gave other trials than the judge did",
    )


@_check("has nothing to do where there are no candidates")
def _empty(subject: OfferSubject) -> None:
    found = list(subject.build().run(_judge, []))
    require(found == [], f"of no candidates it made {len(found)} trials")


@_check("passes on what a trial raises")
def _raises(subject: OfferSubject) -> None:
    try:
        list(subject.build().run(_fail, list(_CANDIDATES)))
    except DataError:
        return
    raise CheckFailed("a trial raised DataError and the executor kept it to itself")
