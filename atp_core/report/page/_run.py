"""What a directory says about the run that wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ...checkpoint import SIDECAR_NAME, has_sidecar, read_sidecar
from ...errors import ModelError, UsageError
from ...evaluation.schema import (
    EVALUATION_NAME,
    SCHEMA_VERSION,
    EvaluationRecord,
    ModelRecord,
)
from ...records import Beta, Metric, Schedule
from ._private import shortened
from ._records import BlockResult, ChainResult, MetricsBy, Outcome, TrialsOf

__all__ = ["Run", "figures_of", "read_run", "read_runs"]

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Run:
    """A directory that atp wrote, with nothing in it that must not be published.

    Attributes:
        name: of the directory, told apart where several have the same.
        recipe: settings of the run.
        schedule: the rates asked for.
        provenance: versions, machine and seeds.
        metrics: "dense", "uniform", "pruned" → name → metric; empty where nothing was measured.
        trials: as `Trial.to_dict` gives them.
        outcome: what was done.
        evaluation: what ``atp eval`` measured later.
        images: names of the figures in the directory.
    """

    name: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)
    trials: Sequence[Mapping[str, Any]] = ()
    outcome: Outcome = field(default_factory=Outcome)
    evaluation: EvaluationRecord | None = None
    images: Sequence[str] = ()

    @property
    def model(self) -> str:
        """Name of the dense model."""
        known = [self.provenance.get("base_model"), self.recipe.get("source")]
        if self.evaluation is not None:
            known += [self.evaluation.base_model, self.evaluation.source]
        return next((str(name) for name in known if name), self.name)

    @property
    def pruned(self) -> bool:
        """Whether a model was pruned, not a schedule found or a model measured only."""
        return bool(self.outcome.chains)

    @property
    def measured(self) -> Mapping[str, Metric]:
        """What was measured of the pruned model when it was made."""
        return self.metrics.get("pruned", {})

    @property
    def beta(self) -> Beta | None:
        """The common difference, where there is one."""
        return self.schedule.beta if self.schedule is not None else self.outcome.beta

    @property
    def allocation(self) -> str:
        """Name of the allocation."""
        return self.schedule.allocation if self.schedule is not None else self.outcome.allocation

    @property
    def target(self) -> float | None:
        """The sparsity asked for."""
        known = self.outcome.sparsity_target
        return self.schedule.sparsity if known is None and self.schedule is not None else known

    @property
    def chains(self) -> Sequence[ChainResult]:
        """The chains with their rates: as pruned, or as the schedule has them."""
        if self.pruned or self.schedule is None:
            return self.outcome.chains
        return [
            ChainResult(
                name=name,
                blocks=[BlockResult(name=block, rate=rate) for block, rate in blocks.items()],
            )
            for name, blocks in self.schedule.rates.items()
        ]


def read_runs(directories: Sequence[Path]) -> list[Run]:
    """Read the directories, and give those of the same name different ones.

    Raises:
        UsageError: none is given, or one is given twice.
        ModelError: atp did not write one, or a file in it is damaged.
    """
    if not directories:
        raise UsageError("name a directory that `atp prune` or `atp search` wrote")
    seen: set[Path] = set()
    runs: list[Run] = []
    for directory in directories:
        real = directory.resolve()
        if real in seen:
            raise UsageError(f"{directory} is named twice; name each directory once")
        seen.add(real)
        run = read_run(directory)
        runs.append(replace(run, name=_free(run.name, [other.name for other in runs])))
    return runs


def _free(name: str, taken: Sequence[str]) -> str:
    """`name`, with a number where another has it already."""
    numbered = (f"{name} ({i})" for i in count(2))
    return next(free for free in chain([name], numbered) if free not in taken)


def read_run(directory: Path) -> Run:
    """Read what a directory says about itself.

    Raises:
        ModelError: atp did not write it, or a file in it is damaged.
    """
    if not directory.is_dir():
        what = "is no directory" if directory.exists() else "does not exist"
        raise ModelError(f"{directory} {what}; name one that `atp prune` or `atp search` wrote")
    evaluation = _evaluation(directory / EVALUATION_NAME)
    name = shortened(directory.resolve().name) or "model"
    if evaluation is not None and not has_sidecar(directory):
        own = {"model": evaluation.provenance, "base_model": evaluation.base_model}
        return Run(name, provenance={**evaluation.environment, **own}, evaluation=evaluation)
    path = directory / SIDECAR_NAME
    data = shortened(read_sidecar(directory).model_dump())
    try:
        schedule = Schedule.from_dict(data["schedule"]) if data["schedule"] else None
    except UsageError as error:
        raise _damaged(path, str(error)) from None
    return Run(
        name=name,
        recipe=data["recipe"],
        schedule=schedule,
        provenance=data["provenance"],
        metrics=_read(MetricsBy, {"metrics": data["metrics"]}, path).metrics,
        trials=[
            trial.model_dump() for trial in _read(TrialsOf, {"trials": data["trials"]}, path).trials
        ],
        outcome=_read(Outcome, data["report"], path),
        evaluation=evaluation,
        images=sorted(file.name for file in directory.glob("*.png")),
    )


def figures_of(record: ModelRecord) -> dict[str, Metric]:
    """What was measured of a model, by name."""
    names = [field.name for field in fields(Metric)]
    return {
        name: Metric(**{key: getattr(metric, key) for key in names})
        for name, metric in record.metrics.items()
    }


def _evaluation(path: Path) -> EvaluationRecord | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    version = data.get("version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ModelError(
            f"{path} has version {version}, and this atp reads up to version {SCHEMA_VERSION}; "
            "upgrade atp-prune"
        )
    return _read(EvaluationRecord, shortened(data), path)


def _read(record: type[M], data: Any, path: Path) -> M:
    try:
        return record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _damaged(path, f"{where}: {first['msg']}") from None


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(f"{path} is damaged ({why}); make it again, or restore it from a copy")
