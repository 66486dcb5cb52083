"""Tasks of lm-eval, on a model that is in memory."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import io
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import DataError, ModelError, UnknownNameError, UsageError
from ..loading import first_line
from ..presets import PRESETS
from ..progress import Advance, Progress
from ..records import Metric, Observations
from .local_tasks import local_tasks

__all__ = ["Harness", "TaskRequest", "TaskResult", "library", "quiet"]

# For standard errors of what is no mean (F1, perplexity). lm-eval's command takes 100,000, which
# keep a machine busy for minutes to change the second digit of an error.
_RESAMPLES = 1000


@dataclass(frozen=True)
class TaskRequest:
    """Which tasks to run, and on what.

    Attributes:
        tasks: names of tasks, groups or tags of lm-eval.
        data: folder with the tasks' data as JSON lines; None has lm-eval fetch it from the hub.
        include: folder with the user's own task definitions.
        limit: at most so many documents a task; None is all.
        fewshot: examples before each question; None is each task's own number.
        seed: of lm-eval's choice of examples.
    """

    tasks: Sequence[str]
    data: Path | None = None
    include: Path | None = None
    limit: int | None = None
    fewshot: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class TaskResult:
    """What came of one of the names asked for.

    Attributes:
        metrics: "TASK/METRIC" → figure, in lm-eval's own unit; of a group also of its tasks.
        observations: "TASK/METRIC" → the figure of each document, where it is a mean of them.
        details: task → version, hash of its documents, examples, and number of documents.
    """

    metrics: Mapping[str, Metric]
    observations: Mapping[str, Observations] = field(default_factory=dict)
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def library(module: str) -> Any:
    """A module of lm-eval.

    Raises:
        UsageError: it cannot be imported; says how to install it.
    """
    try:
        with quiet():
            return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"tasks need lm-eval, which cannot be imported ({first_line(error)}); install it "
            "with: pip install 'atp-prune[tasks]'"
        ) from error


class Harness:
    """lm-eval with the tasks of a request; use as a context manager.

    Args:
        request: the tasks.
        progress: where progress is shown.

    Raises:
        UsageError: lm-eval is not installed.
        UnknownNameError: lm-eval and the user's folder have no task of a name.
        DataError: a task's local data is missing.
    """

    def __init__(self, request: TaskRequest, progress: Progress) -> None:
        self._request, self._progress = request, progress
        self._stack = contextlib.ExitStack()
        self._evaluator = library("lm_eval.evaluator")
        self._manager: Any = None

    def __enter__(self) -> Harness:
        with self._stack:  # undone at once if anything fails
            work = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="atp-tasks-"))
            self._manager = self._open(Path(work))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, work: Path) -> Any:
        request = self._request
        tasks = library("lm_eval.tasks")
        if request.include is not None and not request.include.is_dir():
            raise DataError(f"--include-path {request.include} is no folder")
        with quiet():
            manager = tasks.TaskManager(include_path=request.include)
            for name in request.tasks:
                if name not in manager.all_tasks:
                    if request.include is not None:
                        _check_definitions(request.include)
                    raise UnknownNameError("task", name, _near(name, manager.all_tasks))
            if request.data is not None:
                own = local_tasks(
                    request.data, request.tasks, manager._index, work, request.fewshot
                )
                # Only these are run; going through lm-eval's thousands again would take seconds.
                manager = tasks.TaskManager(include_path=str(own), include_defaults=False)
        return manager

    def run(self, name: str, lm: Any) -> TaskResult:
        """Run one of the names asked for.

        Args:
            name: a task, group or tag.
            lm: the model as lm-eval sees it (`lm_eval.api.model.LM`).

        Raises:
            DataError: the task's data cannot be had or read.
            ModelError: the model cannot answer the task's requests.
        """
        began = time.perf_counter()
        request = self._request
        seeds = dict.fromkeys(
            ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"),
            request.seed,
        )
        try:
            with quiet(), _bars(name, self._progress):
                found = self._evaluator.simple_evaluate(
                    model=lm,
                    tasks=[name],
                    task_manager=self._manager,
                    num_fewshot=request.fewshot,
                    limit=request.limit,
                    bootstrap_iters=_RESAMPLES,
                    **seeds,
                )
        except (FileNotFoundError, ConnectionError) as error:
            raise DataError(
                f"the data of task {name!r} cannot be had: {first_line(error)}; give it with "
                "--task-data DIR where there is no network"
            ) from error
        except (KeyError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
            raise ModelError(
                f"lm-eval cannot run task {name!r} on this model: {type(error).__name__}: "
                f"{first_line(error)}"
            ) from error
        except Exception as error:
            if type(error).__module__.startswith("jinja2."):
                raise DataError(
                    f"the documents of task {name!r} lack what its prompt is made of: "
                    f"{first_line(error)}; look at its data "
                    f"({request.data or 'from the hub'}) beside the task's definition"
                ) from error
            # `datasets` has errors of its own for a hub that cannot be reached or lacks the data.
            if type(error).__module__.startswith(("datasets.", "huggingface_hub.", "httpx")):
                raise DataError(
                    f"the data of task {name!r} cannot be had: {first_line(error)}; give it with "
                    "--task-data DIR where there is no network"
                ) from error
            raise
        return _result(found, request, time.perf_counter() - began)


def _result(found: Mapping[str, Any], request: TaskRequest, seconds: float) -> TaskResult:
    metrics: dict[str, Metric] = {}
    observations: dict[str, Observations] = {}
    details: dict[str, dict[str, Any]] = {}
    for task, figures in found["results"].items():
        samples = found["samples"].get(task, [])
        count = found["n-samples"].get(task, {}).get("effective") or len(samples)
        shots = found["n-shot"].get(task)
        details[task] = {
            "version": found["versions"].get(task),
            "hash": _hash(samples),
            "shots": shots,
            "documents": count,
            "lm_eval": version("lm-eval"),
        }
        for key, value in figures.items():
            metric, _, filtered = key.partition(",")
            if not isinstance(value, (int, float)) or metric.endswith("_stderr") or not filtered:
                continue
            own = f"{task}/{metric}" + ("" if filtered == "none" else f",{filtered}")
            error = figures.get(f"{metric}_stderr,{filtered}")
            better = found["higher_is_better"].get(task, {}).get(metric)
            metrics[own] = Metric(
                name=own,
                value=float(value),
                stderr=float(error) if isinstance(error, (int, float)) else None,
                n=int(count) or figures.get("sample_count", 0) or figures.get("sample_len", 0),
                unit="fraction" if 0.0 <= value <= 1.0 and better else "as lm-eval gives it",
                higher_is_better=bool(better) if better is not None else True,
                split="report",
                dataset=_dataset(found, task),
                fingerprint=str(details[task]["hash"] or ""),
                convention=_convention(task, shots, count, details[task], request),
                seconds=seconds,
            )
            seen = _observations(samples, metric, filtered, float(value))
            if seen is not None:
                observations[own] = seen
    return TaskResult(metrics, observations, details)


def _hash(samples: Sequence[Mapping[str, Any]]) -> str | None:
    """The hash of a task's documents, prompts and targets, as lm-eval's own results have it."""
    if not samples:
        return None
    parts = [
        sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in samples
    ]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _observations(
    samples: Sequence[Mapping[str, Any]], metric: str, filtered: str, value: float
) -> Observations | None:
    """The figure of each document, where the task's figure is their mean."""
    ids, values = [], []
    for sample in samples:
        if sample.get("filter", filtered) != filtered:
            continue
        figure = sample.get(metric)
        if not isinstance(figure, (bool, int, float)):
            return None
        ids.append(f"{sample['doc_id']}:{sample.get('doc_hash', '')[:16]}")
        values.append(float(figure))
    if not values or not math.isclose(sum(values) / len(values), value, rel_tol=1e-9, abs_tol=1e-9):
        return None
    return Observations(ids, values)


def _dataset(found: Mapping[str, Any], task: str) -> str:
    config = found["configs"].get(task, {})
    path, name = config.get("dataset_path"), config.get("dataset_name")
    if path == "json":
        files = (config.get("dataset_kwargs") or {}).get("data_files") or {}
        return str(Path(str(files.get("test", task))).name)
    return ":".join(str(part) for part in (path, name) if part) or task


def _convention(
    task: str, shots: int | None, count: int, detail: Mapping[str, Any], request: TaskRequest
) -> str:
    told = f"lm-eval {detail['lm_eval']} task {task} version {detail['version']}"
    told += f", {shots or 0}-shot"
    if request.limit is not None:
        told += f", the first {count} documents"
    return told


def _near(name: str, known: Sequence[str]) -> list[str]:
    """A few of lm-eval's thousands of names, for a message."""
    near = difflib.get_close_matches(name, [*known, *PRESETS], n=5)
    return near or ["boolq", "hellaswag", "piqa", "…"]


def _check_definitions(folder: Path) -> None:
    """Look for a file that lm-eval passes over because it cannot be read.

    Raises:
        DataError: there is one.
    """
    loader = library("lm_eval.tasks._yaml_loader")
    for path in sorted(folder.rglob("*.yaml")):
        try:
            loader.load_yaml(path, resolve_func=False)
        except Exception as error:
            raise DataError(
                f"{path} is no task definition that lm-eval can read: {first_line(error)}"
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the log lines, warnings and prints of lm-eval and datasets."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            # What they print would end up in the middle of our JSON.
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# --- lm-eval's bars as ours ----------------------------------------------------------------------


@contextlib.contextmanager
def _bars(name: str, progress: Progress) -> Iterator[None]:
    """Show lm-eval's bars through `progress`; those of `datasets` not at all."""
    datasets = importlib.import_module("datasets")
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    replaced: list[tuple[Any, Any]] = []

    def bar(iterable: Any = None, **settings: Any) -> _Bar:
        return _Bar(name, progress, iterable, **settings)

    for module in _DRAWING:
        with contextlib.suppress(ImportError):
            found: Any = importlib.import_module(module)
            if hasattr(found, "tqdm"):
                replaced.append((found, found.tqdm))
                found.tqdm = bar
    try:
        yield
    finally:
        for found, original in replaced:
            found.tqdm = original
        if shown:
            datasets.enable_progress_bars()


_DRAWING = (
    "lm_eval.api.model",
    "lm_eval.api.task",
    "lm_eval.models.hf_vlms",
    "lm_eval.models.huggingface",
    "tqdm",  # what imports it when it draws
)
"""Modules of lm-eval that draw bars."""


class _Bar:
    """What lm-eval uses of tqdm."""

    def __init__(
        self, name: str, progress: Progress, iterable: Any = None, total: int | None = None,
        **settings: Any,
    ) -> None:  # fmt: skip
        self._iterable = iterable
        if total is None:
            total = len(iterable) if hasattr(iterable, "__len__") else 0
        self._open = contextlib.ExitStack()
        self._advance: Advance = self._open.enter_context(progress.task(name, total))

    def update(self, count: int = 1) -> None:
        for _ in range(count):
            self._advance("")

    def close(self) -> None:
        self._open.close()

    def __iter__(self) -> Iterator[Any]:
        try:
            for item in self._iterable:
                yield item
                self._advance("")
        finally:
            self.close()
