"""Who runs the trials of a search: chosen by name, early, and of no consequence for the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from towers import Towers, TowersPlugin

from atp_core._plugins import build_manager
from atp_core._session import Session
from atp_core._workflow import Pruning, identity
from atp_core.errors import DataError, UnknownNameError
from atp_core.hookspecs import hookimpl
from atp_core.recipe import Recipe
from atp_core.records import Offer, Source
from atp_core.trials import TrialJob
from atp_core.trials.journal import Journal


class Failing:
    """Does jobs in order, writes down which, and gives up after so many."""

    name = "failing"

    def __init__(self, after: int) -> None:
        self.after = after
        self.asked: list[TrialJob] = []

    def run(
        self, work: Callable[[Any], Any], jobs: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        for position, job in enumerate(jobs):
            if len(self.asked) == self.after:
                raise DataError("given up")
            self.asked.append(job)
            yield position, work(job)


class FailingPlugin:
    ATP_HOOK_API = 1

    def __init__(self, executor: Failing) -> None:
        self.executor = executor

    @hookimpl
    def atp_executors(self) -> Sequence[Offer]:
        return [Offer("failing", lambda: self.executor, "gives up")]


def session(failing: Failing, **settings: Any) -> Session:
    plugins = build_manager(
        discover=False, extra=[("towers", TowersPlugin()), ("failing", FailingPlugin(failing))]
    )
    recipe = Recipe.make({"source": "towers", "sparsity": 0.5, **settings})
    return Session(recipe, Source("towers", Towers()), plugins=plugins)


def test_the_executor_of_the_recipe_runs_the_trials() -> None:
    executor = Failing(after=100)
    found = Pruning(session(executor, executor="failing"), Journal(None, {})).search()
    made = [(trial.samples, trial.schedule) for trial in found.trials]
    asked = [(job.samples or 0, job.schedule.digest) for job in executor.asked]
    assert len(made) >= 5
    assert asked == list(dict.fromkeys(made)), "nothing is judged twice"
    assert {job.beta for job in executor.asked} == {trial.beta for trial in found.trials}
    Pruning(session(executor), Journal(None, {})).search()
    assert len(executor.asked) == len(asked), "local is the default"


def test_an_unknown_executor_is_told_before_anything_is_loaded() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown executor 'failling'.* 'failing'"):
        session(Failing(0), executor="failling")


def test_a_search_goes_on_with_another_executor(tmp_path: Path) -> None:
    whole = Pruning(session(Failing(0)), Journal(None, {})).search()
    file = tmp_path / "journal.jsonl"
    first = session(Failing(after=2), executor="failing")
    with pytest.raises(DataError, match="given up"):
        Pruning(first, Journal(file, identity(first))).search()
    second = session(Failing(0))
    journal = Journal(file, identity(second), resume=True)
    assert len(journal) == 2
    resumed = Pruning(second, journal).search()
    assert resumed.schedule == whole.schedule
    assert [(t.stage, t.beta, t.objective) for t in resumed.trials] == [
        (t.stage, t.beta, t.objective) for t in whole.trials
    ]


def test_the_recipe_tells_of_an_executor_that_is_not_the_default() -> None:
    settings = {"source": "m", "sparsity": 0.5}
    assert "executor" not in Recipe.make(settings).command()
    assert "--executor mine" in Recipe.make({**settings, "executor": "mine"}).command()
