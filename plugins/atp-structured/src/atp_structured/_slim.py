"""From a source to a smaller model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from atp_core.errors import UsageError
from atp_core.progress import Progress
from atp_core.recipe import Recipe
from atp_core.records import Metric, Source
from atp_core.session import Session

from ._importance import IMPORTANCES
from ._result import SlimBlock, SlimResult
from ._slimming import Slimming
from ._write import check_output, write

__all__ = ["slim"]

_WIDE = 0.005
"""By how much the share removed may miss the target before it is told."""


def slim(
    model_or_source: Any,
    *,
    sparsity: float | Mapping[str, float],
    importance: str = "wanda",
    processor: Any = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> SlimResult:
    """Remove heads and channels of a model, block by block at the rates of a schedule.

    The width of the residual stays. Quality is measured on the model with the same heads and
    channels at zero, which computes the same.

    Args:
        model_or_source: a source as on the command line, or a model in memory, which is changed.
        sparsity: share of the prunable weights to remove, or one for each chain.
        importance: what heads and channels are ranked by, "wanda" or "magnitude".
        processor: tokenizer or image processor of a model in memory.
        output: directory to write; `load` reads it.
        overwrite: replace an output of ours.
        progress: where long steps are shown.
        **settings: further fields of `atp_core.Recipe`: allocation, beta, schedule, calibration…

    Raises:
        AtpError: anything that is wrong with the request, the model or the data.
    """
    started = time.perf_counter()
    recipe = _recipe(model_or_source, sparsity, importance, output, settings)
    target = None if output is None else Path(output)
    if target is not None:
        check_output(target, overwrite=overwrite)
    session = Session(recipe, Source.of(model_or_source, processor), progress=progress)
    with session:
        slimming = Slimming(session)
        found, metrics = slimming.search_and_report()
        model = session.loaded.model
        dense = _parameters(model)
        with write(session, target, overwrite=overwrite) as written:
            blocks, attributes = slimming.remove(found.schedule)
            result = SlimResult(
                search=found,
                importance=importance,
                blocks=blocks,
                parameters_dense=dense,
                parameters=_parameters(model),
                metrics=metrics,
                seconds=time.perf_counter() - started,
                notes=_notes(blocks, found.schedule.sparsity, metrics),
                output=target,
                loaded=session.loaded,
            )
            written(result, attributes)
    return replace(result, seconds=time.perf_counter() - started)


def _recipe(
    model_or_source: Any,
    sparsity: Any,
    importance: str,
    output: str | Path | None,
    settings: Mapping[str, Any],
) -> Recipe:
    """The recipe, without what makes no sense here.

    Raises:
        UsageError: a setting is wrong, or has no effect here.
    """
    if importance not in IMPORTANCES:
        raise UsageError(
            f"heads and channels are ranked by {' or '.join(IMPORTANCES)}, not by {importance!r}"
        )
    unused = ("method", "inputs", "pattern", "executor", "executor_options", "max_memory", "tasks")
    for name in unused:
        if settings.get(name) is not None:
            raise UsageError(f"{name} has no effect where heads and channels go; leave it out")
    if settings.get("beta") == "auto":
        raise UsageError(
            "beta 'auto' is measured for single weights, not for heads and channels; give a "
            "number, or 'search'"
        )
    source = Source.of(model_or_source, None)
    return Recipe.make(
        {
            **settings,
            "source": source.text,
            "sparsity": sparsity,
            "method": importance,
            "output": None if output is None else str(output),
        }
    )


def _notes(
    blocks: Sequence[SlimBlock], target: float, metrics: Mapping[str, Mapping[str, Metric]]
) -> list[str]:
    """What a user must know: what could not go, and whether the target was met."""
    notes: dict[str, list[str]] = {}
    for block in blocks:
        for note in block.notes:
            notes.setdefault(note, []).append(block.name)
    told = [
        note if len(where) == len(blocks) else f"{', '.join(where)}: {note}"
        for note, where in notes.items()
    ]
    total = sum(block.prunable for block in blocks)
    achieved = sum(block.removed for block in blocks) / total if total else 0.0
    if abs(achieved - target) > _WIDE:
        short = max(blocks, key=lambda block: abs(block.rate - block.achieved))
        told.append(
            f"{achieved:.1%} of the prunable weights are gone, and {target:.1%} were asked for: "
            f"whole heads and channels allow no more (furthest off is {short.name}, "
            f"{short.achieved:.1%} of {short.rate:.1%})"
        )
    if not any(metrics.values()):
        told.append("no report data, so nothing was measured; give --report-data")
    return told


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
