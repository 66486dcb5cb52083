"""Measuring models on the report split and on tasks, and comparing them pair by pair."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from ._plugins import Plugins
from ._session import Session
from ._tasks import Found, add_tasks, evaluated
from .checkpoint import collect_provenance
from .errors import DataError
from .progress import NullProgress, Progress
from .recipe import Recipe, without_folders
from .records import Source
from .results import EvaluateResult
from .trials.journal import Journal

__all__ = ["Measuring", "measure"]


@dataclass
class Measuring:
    """What to measure.

    Attributes:
        recipe: loading and data settings, and tasks; its source is the model.
        sources: the model, and then what it is compared with.
        metrics: only these of the plugins' metrics; None is their default set.
        plugins: the plugins to use; found by discovery if None.
        runtime: what executes the model, "auto" for the sparse runtime that can; None leaves it
            to torch, as all that it is compared with.
    """

    recipe: Recipe
    sources: Sequence[Source]
    metrics: Sequence[str] | None = None
    plugins: Plugins | None = None
    runtime: str | None = None

    @property
    def own(self) -> bool:
        """Whether the plugin's own metrics are measured: not where only tasks are asked for."""
        asked = self.metrics is not None or self.recipe.report_data is not None
        return asked or not self.recipe.tasks

    def identity(self) -> dict[str, Any]:
        """What must be equal for two measurements to be the same one."""
        return {
            **self.recipe.model_dump(mode="json", exclude={"output", "source"}),
            "sources": [source.text for source in self.sources],
            "metrics": None if self.metrics is None else list(self.metrics),
            "runtime": self.runtime,
            "atp": version("atp-prune"),
            "torch": version("torch"),
        }


def measure(asked: Measuring, journal: Journal, progress: Progress | None = None) -> EvaluateResult:
    """Measure every model, one after another, and compare the first with the others.

    What a plugin keeps of the first other model's outputs is handed on, so that the model is also
    judged by how far it agrees with it. Each metric and task is written down as it ends.

    Raises:
        AtpError: a source, its data or a task cannot be had, or nothing can be measured.
    """
    progress = progress or NullProgress()
    results: dict[int, EvaluateResult] = {}
    measured: dict[int, Found] = {}
    reference: Mapping[Any, Any] | None = None
    order = [*range(1, len(asked.sources)), 0]  # the model comes last: others are its reference
    for position in order:
        began = time.perf_counter()
        one = _Model(asked, position, journal, progress)
        with one.session:
            found, kept = one.measure(reference, keep=position == order[0] and len(order) > 1)
        if position == order[0]:
            reference = kept
        results[position] = EvaluateResult(
            source=one.source.text,
            plugin=one.session.plugin,
            metrics=found.metrics,
            seconds=time.perf_counter() - began,
            tasks=found.tasks,
            provenance=one.provenance,
            base_model=one.base_model,
            runtime=one.runtime,
        )
        measured[position] = found
    others = order[:-1]
    recipe = asked.recipe.portable()
    distribution = one.session.plugins.distribution(one.session.plugin)
    return replace(
        results[0],
        others=[results[position] for position in others],
        comparisons=[
            comparison
            for position in others
            for comparison in measured[0].against(
                measured[position], results[position].source, recipe.seed
            )
        ],
        observations=measured[0].observations,
        settings=_settings(recipe, asked),
        environment=collect_provenance(seed=recipe.seed, plugin_distribution=distribution),
        command=_command(recipe, asked),
    )


_MEASURING = (
    *("report_data", "report_samples", "classes", "templates", "tasks", "task_data"),
    *("include_path", "limit", "num_fewshot", "seqlen", "batch_size", "seed", "device", "dtype"),
    *("plugin", "revision", "trust_remote_code"),
)
"""Settings of a recipe that have to do with measuring."""


def _settings(recipe: Recipe, asked: Measuring) -> dict[str, Any]:
    data = recipe.model_dump(mode="json")
    metrics = None if asked.metrics is None else list(asked.metrics)
    measuring = {name: data[name] for name in _MEASURING}
    return {**measuring, "metrics": metrics, "runtime": asked.runtime}


def _command(recipe: Recipe, asked: Measuring) -> str:
    """The command line that repeats the measurement."""
    words = ["atp", "eval", recipe.source]
    for source in asked.sources[1:]:
        words += ["--compare", without_folders(source.text)]
    if asked.metrics is not None:
        words += ["--metrics", ",".join(asked.metrics)]
    if asked.runtime is not None:
        words += ["--runtime", asked.runtime]
    return shlex.join([*words, *recipe.options(_MEASURING)])


class _Model:
    """One of the models of a measurement."""

    def __init__(
        self, asked: Measuring, position: int, journal: Journal, progress: Progress
    ) -> None:
        self._asked, self._position = asked, position
        self._journal, self._progress = journal, progress
        self.source = asked.sources[position]
        recipe = asked.recipe.model_copy(update={"source": self.source.text})
        self.session = Session(recipe, self.source, progress=progress, plugins=asked.plugins)
        self.provenance: Mapping[str, Any] = {}
        self.base_model: str | None = None
        self.runtime: Mapping[str, Any] = {}

    def measure(
        self, reference: Mapping[Any, Any] | None, *, keep: bool
    ) -> tuple[Found, Mapping[Any, Any] | None]:
        """What is found, and what the plugin keeps of the model's outputs.

        Args:
            reference: what the plugin kept of the model that this one is compared with.
            keep: others will be compared with this one.
        """
        found, kept = Found(), None
        key = self._key("metrics")
        if self._asked.runtime is not None and self._position == 0:
            self.session.use_runtime(self._asked.runtime)
        if self._asked.own:
            known = self._journal.get(key)
            if known is None or (keep and self._others_wait()):
                known, kept = self._own(reference)
                self._journal.put(key, known)
            found.add(known)
        add_tasks(found, self.session, self._journal, self._key("tasks"))
        about = self._journal.get(self._key("about"))
        if about is None:
            loaded = self.session.loaded
            about = {"provenance": loaded.provenance, "base_model": loaded.base_model}
            self._journal.put(self._key("about"), about)
        ran = self.session.accelerated
        if ran is not None:
            self._journal.put(self._key("runtime"), ran.to_json())
        self.runtime = self._journal.get(self._key("runtime")) or {}
        self.provenance, self.base_model = about["provenance"], about["base_model"]
        return found, kept

    def _key(self, unit: str) -> str:
        return f"{self._position}/{unit}"

    def _others_wait(self) -> bool:
        """Whether another model is still to be compared with what the plugin keeps of this one."""
        return any(
            self._journal.get(f"{position}/metrics") is None
            for position in range(len(self._asked.sources))
            if position != self._position
        )

    def _own(self, reference: Mapping[Any, Any] | None) -> tuple[dict[str, Any], Mapping[Any, Any]]:
        loaded = self.session.loaded
        if reference:
            loaded.dense = dict(reference)
            loaded.pruned = True
        found = self.session.evaluate("report", self._asked.metrics)
        if not found.metrics:
            raise DataError(f"{self.source.text} has no data to be measured on; give --report-data")
        return evaluated(found), loaded.dense
