"""Allocations side by side on one model: one load, one set of calibration data."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ._session import Session
from ._tasks import Found
from ._workflow import Pruning, identity
from .compared import ComparedCell, CompareResult
from .errors import AtpError, UsageError
from .recipe import Recipe
from .records import Schedule
from .results import peak_memory_bytes
from .trials.journal import Journal

__all__ = ["Comparing", "Contender", "contenders"]

SEARCHES = ("bayes-",)
"""Allocations that "all" leaves out, because each takes many trials: they are named."""


@dataclass(frozen=True)
class Contender:
    """One allocation in a comparison.

    Attributes:
        label: as the user wrote it, e.g. "owl:lambda=0.1".
        settings: what it changes in the recipe.
    """

    label: str
    settings: Mapping[str, Any]


def contenders(texts: Sequence[str], offered: Sequence[str]) -> list[Contender]:
    """Allocations by what a user writes; uniform sparsity comes first, named or not.

    Args:
        texts: names; ``name:option=value:option=value`` with settings; "all" for every allocation
            that needs no search of its own; or the path of a schedule file (``….json``).
        offered: names on offer.

    Raises:
        UsageError: an option has no value.
    """
    names: list[str] = ["uniform"]
    for text in texts:
        names += [n for n in offered if not n.startswith(SEARCHES)] if text == "all" else [text]
    return [_contender(name) for name in dict.fromkeys(names)]


def _contender(text: str) -> Contender:
    if text.endswith(".json"):
        return Contender(Path(text).stem, {"schedule": text, "allocation": "uniform"})
    name, *pairs = text.split(":")
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise UsageError(f"{pair!r} in the allocation {text!r} is not of the form option=value")
        options[key] = _value(value)
    return Contender(text, {"allocation": name, "allocation_options": options})


def _value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


class Comparing:
    """A comparison, from the request to its result.

    Args:
        session: the model, and a recipe with what all cells have in common.
        entrants: the allocations.
        sparsities: the S to prune to.
        methods: the pruning methods.
    """

    def __init__(
        self,
        session: Session,
        entrants: Sequence[Contender],
        sparsities: Sequence[float],
        methods: Sequence[str],
    ) -> None:
        self._session = session
        self._entrants = entrants
        self._grid = list(itertools.product(methods, sparsities))
        # Wrong names and settings are told before anything costly happens.
        self._recipes = {
            (method, sparsity, entrant.label): self._recipe(method, sparsity, entrant)
            for method, sparsity in self._grid
            for entrant in entrants
        }
        for recipe in self._recipes.values():
            session.plugins.offers("methods").check(recipe.method)
            session.plugins.offers("allocators").check(recipe.allocation)

    def _recipe(self, method: str, sparsity: float, entrant: Contender) -> Recipe:
        common = self._session.recipe.model_dump(exclude_unset=True)
        settings = {**common, "method": method, "sparsity": sparsity, **entrant.settings}
        made = Recipe.make({**settings, "output": None})
        # β is a setting of those that have one; the others would refuse it.
        allocator = self._session.plugins.offers("allocators")
        allocator.check(made.allocation)
        if not getattr(allocator.create(made.allocation), "takes_beta", False) or made.schedule:
            plain = {"beta": "search", "beta_per_chain": False, "beta_step": None}
            made = made.model_copy(update=plain)
        return made

    def identity(self) -> dict[str, Any]:
        """What must be equal for two comparisons to be the same one, cells aside."""
        common = identity(self._session)
        for cell in ("method", "sparsity", "allocation", "allocation_options", "schedule"):
            common.pop(cell, None)
        return common

    def run(self, journal: Journal) -> CompareResult:
        """Fill every cell that the journal does not have."""
        started = time.perf_counter()
        session = self._session
        cells: list[ComparedCell] = []
        dense = Pruning(session.again(self._first()), journal.within("dense/"))
        dense.report_metrics("dense", None)
        with session.progress.task("allocations", len(self._recipes)) as advance:
            for method, sparsity in self._grid:
                # Trials of equal schedules are made once, whoever asks for them.
                part = journal.within(f"{method}/{sparsity!r}/")
                reference: Found | None = None
                for entrant in self._entrants:
                    recipe = self._recipes[method, sparsity, entrant.label]
                    cell, found = self._cell(entrant, recipe, part, reference)
                    if entrant.label == "uniform":
                        reference = found
                    cells.append(cell)
                    advance(f"{method} {sparsity:g} {entrant.label}")
        session.restore()
        calibration = session.calibration if session.method().calibrated else None
        return CompareResult(
            source=session.source.text,
            plugin=session.plugin,
            dense=dense.found["dense"].metrics,
            cells=cells,
            calibration=None if calibration is None else calibration.dataset,
            environment={"atp-prune": version("atp-prune"), "torch": version("torch")},
            seconds=time.perf_counter() - started,
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _first(self) -> Recipe:
        return next(iter(self._recipes.values()))

    def _cell(
        self, entrant: Contender, recipe: Recipe, journal: Journal, reference: Found | None
    ) -> tuple[ComparedCell, Found | None]:
        session = self._session.again(recipe)
        who = entrant.label
        try:
            pruning = Pruning(session, journal)
            known = journal.get(f"cell/{who}")
            if known is None:
                began = time.perf_counter()
                search = pruning.search()
                spent = sum(trial.seconds for trial in search.trials)
                known = {
                    "schedule": search.schedule.to_dict(),
                    "trials": [trial.to_dict() for trial in search.trials],
                    "objective": search.objective,
                    # Trials answered from the journal cost what they cost when they were made.
                    "search_seconds": max(time.perf_counter() - began, spent),
                }
                journal.put(f"cell/{who}", known)
            schedule = Schedule.from_dict(known["schedule"])
            pruning.report_metrics(who, schedule)
            found = pruning.found[who]
        except AtpError as error:
            # One allocation that does not suit the model must not cost the others their results.
            return ComparedCell(recipe.method, _rate(recipe), who, error=str(error)), None
        finally:
            self._session.learn(session)
        against = [] if reference is None else found.against(reference, "uniform", recipe.seed)
        return (
            ComparedCell(
                method=recipe.method,
                sparsity=_rate(recipe),
                allocation=who,
                schedule=schedule,
                trials=known["trials"],
                search_seconds=known["search_seconds"],
                metrics=found.metrics,
                against_uniform=[asdict(one) for one in against],
            ),
            found,
        )


def _rate(recipe: Recipe) -> float:
    assert isinstance(recipe.sparsity, float), "a comparison has one S for all chains"
    return recipe.sparsity
