"""Running tasks of lm-eval on a session's model, and what was measured of it in all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ._session import Session
from .errors import UsageError
from .evaluation.comparison import Comparison, compare_all
from .evaluation.harness import Harness, TaskRequest, TaskResult, quiet
from .presets import PRESETS, preset_of
from .records import Evaluation, Metric, Observations
from .results import metrics_from_dict, metrics_to_dict
from .trials.journal import Journal

__all__ = ["Found", "add_tasks", "average", "evaluated", "recall", "run_tasks", "unit"]


@dataclass
class Found:
    """What was measured of one model so far."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    observations: dict[str, list[Observations]] = field(default_factory=dict)
    tasks: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def add(self, data: Mapping[str, Any]) -> None:
        """Take in a unit as it stands in the journal."""
        self.metrics |= metrics_from_dict(data["metrics"])
        self.tasks |= data["tasks"]
        for name, parts in data["observations"].items():
            self.observations[name] = [Observations(**part) for part in parts]

    def against(self, other: Found, reference: str, seed: int = 0) -> list[Comparison]:
        """These figures against those of another model, paired by document or image.

        Args:
            other: what was measured of it.
            reference: what it is called.
            seed: of the resampling.
        """
        return compare_all(
            self.metrics, other.metrics, self.observations, other.observations, reference, seed
        )


def add_tasks(
    found: Found,
    session: Session,
    journal: Journal,
    prefix: str,
    prepare: Callable[[], object] = lambda: None,
) -> None:
    """Add the recipe's tasks on the model of a session; those in the journal are not run again.

    Args:
        found: what they are added to, and the mean of a preset that is complete.
        session: the model and its recipe.
        journal: where each task is written as it ends.
        prefix: of the tasks' keys in the journal.
        prepare: puts the model in the state that is measured; called if any task has to run.
    """
    tasks = session.recipe.tasks or []
    missing = [task for task in tasks if journal.get(f"{prefix}/{task}") is None]
    if missing:
        prepare()
        for task, result in run_tasks(session, missing):
            journal.put(f"{prefix}/{task}", unit(result))
    for task in tasks:
        known = journal.get(f"{prefix}/{task}")
        assert known is not None
        found.add(known)
    average(found, tasks)


def recall(journal: Journal, key: str, tasks: Sequence[str] | None) -> Found | None:
    """What a journal has of one model, or None where a part is missing.

    Args:
        journal: has the plugin's own metrics under the key, and each task under key/task.
        key: of the model.
        tasks: that belong to it.
    """
    known = [journal.get(one) for one in (key, *(f"{key}/{task}" for task in tasks or ()))]
    if None in known:
        return None
    found = Found()
    for part in known:
        assert part is not None
        found.add(part)
    average(found, tasks or [])
    return found


def run_tasks(session: Session, names: Sequence[str]) -> Iterator[tuple[str, TaskResult]]:
    """Run tasks of lm-eval on the model of a session as it stands.

    Raises:
        UsageError: the plugin has no models for lm-eval, or lm-eval is not installed.
    """
    recipe = session.recipe
    if "atp_lm" not in session.plugins.status(session.plugin).hooks:
        raise UsageError(
            f"tasks are for models that answer in text; plugin {session.plugin!r}, which handles "
            f"{session.source.text}, has none for lm-eval (atp_lm). Leave --tasks out"
        )
    request = TaskRequest(
        tasks=names,
        data=recipe.task_data,
        include=recipe.include_path,
        limit=recipe.limit,
        fewshot=recipe.num_fewshot,
        seed=recipe.seed,
    )
    with ExitStack() as stack:
        harness = stack.enter_context(Harness(request, session.progress))
        advance = stack.enter_context(session.progress.task("tasks", len(names)))
        stack.enter_context(session.whole_model_on_device())
        with quiet():
            lm = session.plugins.caller("atp_lm", session.plugin)(
                loaded=session.loaded, batch_size=recipe.batch_size
            )
        for name in names:
            yield name, harness.run(name, lm)
            advance(name)


def unit(result: TaskResult) -> dict[str, Any]:
    """What was measured at once, as it is written to the journal."""
    return {
        "metrics": metrics_to_dict(result.metrics),
        "observations": {name: [asdict(seen)] for name, seen in result.observations.items()},
        "tasks": {name: dict(detail) for name, detail in result.details.items()},
    }


def evaluated(found: Evaluation) -> dict[str, Any]:
    """What a plugin measured, as it is written to the journal."""
    return unit(TaskResult({metric.name: metric for metric in found.metrics}, found.observations))


def average(found: Found, tasks: Sequence[str]) -> None:
    """Add the mean accuracy of a preset whose tasks were all run."""
    preset = preset_of(list(tasks))
    if preset is None:
        return
    parts = [f"{task}/acc" for task in PRESETS[preset]]
    if not all(part in found.metrics for part in parts):
        return
    metrics = [found.metrics[part] for part in parts]
    errors = [metric.stderr or 0.0 for metric in metrics]
    name = f"{preset}/acc"
    found.metrics[name] = replace(
        metrics[0],
        name=name,
        value=sum(metric.value for metric in metrics) / len(metrics),
        stderr=sum(error**2 for error in errors) ** 0.5 / len(metrics),
        n=sum(metric.n for metric in metrics),
        unit="fraction",
        dataset=", ".join(PRESETS[preset]),
        fingerprint=" ".join(metric.fingerprint[:8] for metric in metrics),
        convention=f"mean of acc over {len(parts)} tasks, {_library(found, preset)}",
        seconds=sum(metric.seconds for metric in metrics),
    )
    if all(part in found.observations for part in parts):
        found.observations[name] = [found.observations[part][0] for part in parts]


def _library(found: Found, preset: str) -> str:
    versions = {str(found.tasks[task].get("lm_eval")) for task in PRESETS[preset]}
    return f"lm-eval {', '.join(sorted(versions))}"
