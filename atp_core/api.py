"""The Python API: the same words as the command line, on a source or on a model in memory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._bench import Benching
from ._compare import Comparing
from ._contenders import contenders
from ._diagnose import Diagnosing
from ._export import export_directory
from ._json import without_non_finite
from ._measure import Measuring, measure
from ._plan import make_plan
from ._plugins import Plugins, build_manager
from ._runtimes import AUTO, accelerated, choose_runtime
from ._session import Session
from ._workflow import Pruning, identity
from ._write import prepare_output, write_output, write_search
from ._write_comparison import write_comparison
from ._write_diagnosis import write_diagnosis
from ._write_evaluation import check_evaluation_target, write_evaluation
from .benched import BenchResult
from .checkpoint import atomic_write_text
from .compared import CompareResult
from .diagnosed import DiagnoseResult
from .errors import UsageError
from .exported import ExportResult, Format
from .progress import NullProgress, Progress
from .recipe import Recipe
from .records import LoadedModel, Metric, Source, WorkRequest
from .results import EvaluateResult, InspectResult, PlanResult, PruneResult, SearchResult
from .runtime import Accelerated
from .trials.journal import journal_beside

__all__ = [
    "accelerate",
    "bench",
    "compare",
    "diagnose",
    "evaluate",
    "export",
    "inspect",
    "load",
    "plan",
    "prune",
    "run_prune",
    "run_search",
    "search",
]


def prune(
    model_or_source: Any,
    *,
    output: str | Path | None = None,
    processor: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> PruneResult:
    """Prune a model with a searched, measured or given allocation.

    Args:
        model_or_source: a source as on the command line, or a model in memory, which is pruned
            in place.
        output: directory to write; None writes nothing.
        processor: tokenizer or image processor of a model in memory.
        resume: take up the interrupted run that was writing `output`.
        overwrite: replace an output of ours, and start over where a run was interrupted.
        progress: where long steps are shown.
        **settings: fields of `atp_core.Recipe`: sparsity, method, allocation, beta, calibration…

    Returns:
        The schedule, its trials, what was done to each block, and metrics on the report split.

    Raises:
        AtpError: anything that is wrong with the request, the model or the data.
    """
    source = Source.of(model_or_source, processor)
    recipe = _recipe(source, settings, output)
    return run_prune(recipe, source, resume=resume, overwrite=overwrite, progress=progress)


def search(
    model_or_source: Any,
    *,
    output: str | Path | None = None,
    processor: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> SearchResult:
    """Find a schedule without writing a model; arguments as those of `prune`.

    `output`, if given, gets ``schedule.json``, ``trials.jsonl`` and figures. A model in memory is
    left as it was.
    """
    source = Source.of(model_or_source, processor)
    recipe = _recipe(source, settings, output)
    return run_search(recipe, source, resume=resume, overwrite=overwrite, progress=progress)


def plan(model_or_source: Any, *, processor: Any = None, **settings: Any) -> PlanResult:
    """Work out what `prune` would do, without loading weights; arguments as those of `prune`."""
    source = Source.of(model_or_source, processor)
    return make_plan(Session(_recipe(source, settings, None), source))


def evaluate(
    model_or_source: Any,
    *,
    processor: Any = None,
    metrics: Sequence[str] | None = None,
    tasks: str | Sequence[str] | None = None,
    compare: Sequence[Any] = (),
    runtime: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> EvaluateResult:
    """Measure a model on the report split and on tasks, and compare it with others.

    Args:
        model_or_source: a source as on the command line, or a model in memory.
        processor: tokenizer or image processor of a model in memory.
        metrics: only these of the plugin's metrics; None is its default set, or none where only
            tasks are asked for.
        tasks: tasks, groups or presets of lm-eval, e.g. "zeroshot7".
        compare: further sources; the model is compared with each, paired by document or image.
        runtime: what executes the model: a name, "auto" for the sparse runtime that can run here,
            or None for torch, which also executes what it is compared with.
        output: directory to write ``eval.json`` to.
        resume: take up the interrupted measurement that was writing `output`.
        overwrite: replace an output of ours, and start over where a measurement was interrupted.
        progress: where long steps are shown.
        **settings: data, task and loading fields of `atp_core.Recipe`.

    Raises:
        AtpError: a source, its data or a task cannot be had, or nothing can be measured.
    """
    source = Source.of(model_or_source, processor)
    fields = {"sparsity": 0.0, **settings, "tasks": tasks}
    target = None if output is None else Path(output)
    if target is not None:
        check_evaluation_target(target, overwrite=overwrite)
    asked = Measuring(
        _recipe(source, fields, output),
        [source, *(Source.of(one, None) for one in compare)],
        metrics,
        runtime=runtime,
    )
    with journal_beside(
        target, "evaluation.jsonl", asked.identity, resume=resume, overwrite=overwrite
    ) as journal:
        result = measure(asked, journal, progress)
        if target is not None:
            write_evaluation(result, target)
    return result


def accelerate(
    model_or_source: Any,
    *,
    runtime: str = AUTO,
    processor: Any = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Accelerated:
    """Have a pruned model executed by a runtime that makes use of its zeros.

    Args:
        model_or_source: any `torch.nn.Module` in memory, which is accelerated in place where it
            is; or a source as on the command line, e.g. a directory that `prune` or `export`
            wrote, which is loaded.
        runtime: a name, or "auto" for the sparse runtime that can run here.
        processor: tokenizer or image processor of a model in memory.
        progress: where long steps are shown.
        **settings: loading fields of `atp_core.Recipe` (dtype, device…), for a source.

    Returns:
        The model, which layers run sparse, and the way back to dense ones.

    Raises:
        AtpError: no such runtime is installed, or it cannot run here.
    """
    source = Source.of(model_or_source, processor)
    if source.model is not None:
        if settings:
            raise UsageError(
                f"a model in memory is taken as it is; drop {', '.join(sorted(settings))}"
            )
        model = source.model
        home = next(model.parameters()).device
        chosen = choose_runtime(build_manager(), runtime, home.type)
        return accelerated(model, chosen, processor)
    session = Session(
        _recipe(source, {"sparsity": 0.0, **settings}, None), source, progress=progress
    )
    device = session.device or next(session.loaded.model.parameters()).device
    chosen = choose_runtime(session.plugins, runtime, device.type)
    model = session.loaded.model.to(device)
    return accelerated(model, chosen, session.loaded.processor)


def bench(
    model_or_source: Any,
    *,
    runtime: str = AUTO,
    modes: Sequence[str] = (),
    batch_sizes: Sequence[int] = (1,),
    tokens: int | None = None,
    steps: int | None = None,
    rounds: int = 11,
    threads: int | None = None,
    seed: int = 0,
    processor: Any = None,
    output: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> BenchResult:
    """Time a pruned model dense against sparse, in one process, on random inputs.

    Args:
        model_or_source: a source as on the command line, or a model in memory, which is left as
            it was.
        runtime: the sparse one: a name, or "auto" for the one that can run here.
        modes: what to time, e.g. "decode", "prefill", "images", "texts"; none for all that the
            model has.
        batch_sizes: samples that go through at once.
        tokens: length of a prompt.
        steps: tokens that are decoded.
        rounds: pairs of one dense and one sparse pass.
        threads: of torch; None leaves them.
        seed: of the random inputs.
        processor: tokenizer or image processor of a model in memory.
        output: JSON file to write the result to.
        progress: where long steps are shown.
        **settings: loading fields of `atp_core.Recipe` (dtype, device…).

    Raises:
        AtpError: no sparse runtime is installed or can run here, or the model cannot be timed.
    """
    if rounds < 1 or not batch_sizes or min(batch_sizes) < 1:
        raise UsageError("give at least one round, and batch sizes of 1 and more")
    if output is not None and not Path(output).absolute().parent.is_dir():
        raise UsageError(f"there is no folder {Path(output).parent}; make it first")
    source = Source.of(model_or_source, processor)
    session = Session(
        _recipe(source, {"sparsity": 0.0, **settings}, None), source, progress=progress
    )
    request = WorkRequest(tuple(batch_sizes), tokens, steps, seed)
    result = Benching(session, runtime, modes, request, rounds, threads).run()
    if output is not None:
        text = json.dumps(without_non_finite(result.to_json()), indent=2, allow_nan=False)
        atomic_write_text(Path(output), text + "\n")
    return result


def compare(
    model_or_source: Any,
    *,
    allocations: Sequence[str] = ("all",),
    sparsities: Sequence[float],
    methods: Sequence[str] = ("wanda",),
    processor: Any = None,
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> CompareResult:
    """Prune one model with several allocations, and measure each on the report split.

    The model and the calibration data are read once. Nothing is chosen on the report split. A
    model in memory is left as it was.

    Args:
        model_or_source: a source as on the command line, or a model in memory.
        allocations: names; ``name:option=value`` with settings of the allocation; "all" for every
            one that needs no search of its own (not "bayes-tpe" and its like); the path of a
            schedule file. Uniform sparsity is always the first.
        sparsities: the target sparsities S.
        methods: the pruning methods.
        processor: tokenizer or image processor of a model in memory.
        output: directory to write ``compare.json``, every schedule and figures to.
        resume: take up the interrupted comparison that was writing `output`.
        overwrite: replace an output of ours, and start over where a comparison was interrupted.
        progress: where long steps are shown.
        **settings: fields of `atp_core.Recipe` that all have in common: beta, calibration…

    Raises:
        AtpError: anything that is wrong with the request, the model or the data. An allocation
            that does not suit the model is recorded in its cell instead.
    """
    if not sparsities or not methods:
        raise UsageError("name at least one sparsity and one method to compare at")
    source = Source.of(model_or_source, processor)
    target = None if output is None else Path(output)
    if target is not None:
        prepare_output(target, overwrite=overwrite)
    fields = {**settings, "sparsity": sparsities[0], "method": methods[0]}
    session = Session(_recipe(source, fields, output), source, progress=progress)
    entrants = contenders(allocations, list(session.plugins.offers("allocators")))
    asked = Comparing(session, entrants, sparsities, methods)
    with (
        session,
        journal_beside(
            target, "comparison.jsonl", asked.identity, resume=resume, overwrite=overwrite
        ) as journal,
    ):
        result = asked.run(journal)
        if target is not None:
            write_comparison(session, result, target, overwrite=overwrite)
    return result


def diagnose(
    model_or_source: Any,
    *,
    allocations: Sequence[str] = ("uniform", "atp"),
    sparsities: Sequence[float] | None = None,
    points: int = 0,
    processor: Any = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> DiagnoseResult:
    """Measure reconstruction errors over depth, how they grow, and the β that follows.

    Errors are measured on all calibration data, and growth on the part of it that ``beta="auto"``
    takes. Nothing is measured on the report split. A model in memory is left as it was.

    Args:
        model_or_source: a source as on the command line, or a model in memory.
        allocations: as those of `compare`. Uniform sparsity is always the first.
        sparsities: further target sparsities to give ATP's schedule at; None is S ± 0.1.
        points: measure the objective on the search split at so many evenly spaced β of the legal
            range, 0 and the largest among them; 0 measures none.
        processor: tokenizer or image processor of a model in memory.
        output: directory to write ``diagnose.json`` and figures to.
        overwrite: replace an output of ours.
        progress: where long steps are shown.
        **settings: fields of `atp_core.Recipe`: sparsity, method, calibration… β is measured
            unless it is given as a number, or one for each chain.

    Raises:
        AtpError: anything that is wrong with the request, the model or the data. An allocation
            that does not suit the model is recorded with its error instead, unless all fail.
    """
    source = Source.of(model_or_source, processor)
    target = None if output is None else Path(output)
    if target is not None:
        prepare_output(target, overwrite=overwrite)
    session = Session(_recipe(source, settings, output), source, progress=progress)
    entrants = contenders(allocations, list(session.plugins.offers("allocators")))
    with session:
        result = Diagnosing(session, entrants, sparsities, points).run()
        if target is not None:
            write_diagnosis(session, result, target, overwrite=overwrite)
    return result


def export(
    directory: str | Path,
    *,
    output: str | Path,
    format: Format = "packed",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write a saved model with its pruned weights packed as masks and values, or dense again.

    Nothing is lost: every tensor comes back bit for bit, and so does every weight file. Weights
    are read and written a few megabytes at a time.

    Args:
        directory: what `prune` or ``save_pretrained`` wrote; its weights are safetensors.
        output: directory to write; all other files but hidden ones are copied to it.
        format: "packed" or "dense".
        overwrite: replace an output of ours.
        progress: where long steps are shown.

    Raises:
        AtpError: the directory holds no safetensors, damaged ones, or has the form already; or
            the output must not be written.
    """
    return export_directory(
        Path(directory),
        Path(output),
        format,
        overwrite=overwrite,
        progress=progress or NullProgress(),
    )


def inspect(
    model_or_source: Any, *, processor: Any = None, weights: bool = True, **settings: Any
) -> InspectResult:
    """Show the chains of a model, and the zeros in them.

    Args:
        model_or_source: a source as on the command line, or a model in memory.
        processor: tokenizer or image processor of a model in memory.
        weights: read the weights and count zeros; False builds the architecture only.
        **settings: loading fields of `atp_core.Recipe`.
    """
    source = Source.of(model_or_source, processor)
    session = Session(_recipe(source, {"sparsity": 0.0, **settings}, None), source)
    loaded = session.load(meta=not weights)
    chains = session.locate(loaded, every=True)
    zeros: dict[str, int] = {}
    patterns: dict[str, Sequence[str]] = {}
    if weights:
        from .engine.counting import count_zeros, patterns_of

        for block in (block for chain in chains for block in chain.blocks):
            zeros[block.name] = count_zeros(block)
            patterns[block.name] = patterns_of(block)
    return InspectResult(
        source=source.text,
        plugin=session.plugin,
        reason=session.recognition.reason,
        chains=chains,
        total_parameters=_parameters(loaded),
        zeros=zeros,
        patterns=patterns,
    )


def load(source: str, **settings: Any) -> LoadedModel:
    """Load a source through its plugin, in eval mode.

    Args:
        source: as on the command line.
        **settings: loading fields of `atp_core.Recipe` (dtype, revision, plugin…).

    Raises:
        AtpError: it cannot be loaded.
    """
    if settings.get("max_memory") is not None:
        raise UsageError("a model is streamed by what prunes or measures it; drop max_memory here")
    found = Source.of(source, None)
    return Session(_recipe(found, {"sparsity": 0.0, **settings}, None), found).loaded


def run_prune(
    recipe: Recipe,
    source: Source,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    plugins: Plugins | None = None,
) -> PruneResult:
    """`prune` with a recipe that is already made, by installed plugins or the ones given."""
    started = time.perf_counter()
    output = None if recipe.output is None else Path(recipe.output)
    if output is not None:
        prepare_output(output, overwrite=overwrite)
    session = Session(recipe, source, progress=progress, plugins=plugins)
    if output is None and recipe.max_memory is not None:
        raise UsageError("a model that is streamed is not kept in memory; give an output directory")
    _check_beta(session)
    with session, _journaled(session, output, resume, overwrite) as pruning:
        found, metrics = pruning.search_and_report()
        report = pruning.prune(found.schedule, "pruning")
        result = PruneResult(
            search=found,
            report=report,
            metrics=metrics,
            seconds=time.perf_counter() - started,
            output=output,
            comparisons=pruning.comparisons(),
            notes=[*pruning.notes(report), *_unmeasured(metrics)],
            total_parameters=_parameters(session.loaded),
            model=session.loaded.model if session.loaded.stream is None else None,
        )
        if output is not None:
            result = write_output(session, result, output, overwrite=overwrite)
    return result


def run_search(
    recipe: Recipe,
    source: Source,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SearchResult:
    """`search` with a recipe that is already made."""
    output = None if recipe.output is None else Path(recipe.output)
    if output is not None:
        prepare_output(output, overwrite=overwrite)
    session = Session(recipe, source, progress=progress)
    _check_beta(session)
    with session, _journaled(session, output, resume, overwrite) as pruning:
        result = pruning.search()
        session.restore()
        if output is not None:
            write_search(session, result, output, overwrite=overwrite)
    return result


@contextmanager
def _journaled(
    session: Session, output: Path | None, resume: bool, overwrite: bool
) -> Iterator[Pruning]:
    """The workflow of a session, with its journal beside the output."""
    with journal_beside(
        output,
        "journal.jsonl",
        lambda: identity(session),
        worth="trial/",
        resume=resume,
        overwrite=overwrite,
    ) as journal:
        yield Pruning(session, journal)


def _check_beta(session: Session) -> None:
    """Refuse an illegal β before weights are loaded."""
    if not isinstance(session.recipe.beta, str) and session.source.model is None:
        make_plan(session)


def _recipe(source: Source, settings: Mapping[str, Any], output: str | Path | None) -> Recipe:
    return Recipe.make(
        {**settings, "source": source.text, "output": None if output is None else str(output)}
    )


def _unmeasured(metrics: Mapping[str, Mapping[str, Metric]]) -> list[str]:
    if any(metrics.values()):
        return []
    return ["no report data, so the result was not measured; give --report-data to measure it"]


def _parameters(loaded: LoadedModel) -> int:
    return sum(parameter.numel() for parameter in loaded.model.parameters())
