"""Quantizing from Python, in the words of the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from atp_core.checkpoint import check_target
from atp_core.errors import UsageError
from atp_core.progress import Progress
from atp_core.recipe import Recipe
from atp_core.records import Metric, Source
from atp_core.session import Session
from atp_core.trials import Trial

from ._bits import average
from ._pack import cannot_pack, packed_bytes
from ._request import SETTINGS, Request
from ._result import BlockBits, QuantizeResult
from ._run import Quantizing, check_groups
from ._write import write

__all__ = ["BlockBits", "QuantizeResult", "Request", "quantize"]


def quantize(
    model_or_source: Any,
    request: Request,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    processor: Any = None,
    progress: Progress | None = None,
    **settings: Any,
) -> QuantizeResult:
    """Quantize the located weights of a model, with bits per block at an average budget.

    Args:
        model_or_source: a source as on the command line, or a model in memory, which is quantized
            in place (its weights then are what the codes stand for).
        request: bits, solver, allocation, format.
        output: directory to write; None writes nothing.
        overwrite: replace an output of ours.
        processor: tokenizer or image processor of a model in memory.
        progress: where long steps are shown.
        **settings: data and loading fields of `atp_core.Recipe`: calibration, samples, seqlen…

    Raises:
        AtpError: anything that is wrong with the request, the model or the data.
    """
    started = time.perf_counter()
    if unknown := sorted(settings.keys() - SETTINGS):
        raise UsageError(
            f"quantize has no setting {unknown[0]!r}; those are {', '.join(sorted(SETTINGS))}"
        )
    target = None if output is None else Path(output)
    if target is not None:
        check_target(target, overwrite_ok=overwrite)
    source = Source.of(model_or_source, processor)
    recipe = Recipe.make({**settings, "source": source.text, "sparsity": 0.0})
    with Session(recipe, source, progress=progress) as session:
        check_groups(session.chains, request.group_size)
        kind, reason = _format(session, request)
        running = Quantizing(session, request)
        beta: float | None = None
        trials: list[Trial] = []
        # What is given is checked before anything is measured.
        if request.from_file:
            bits = running.file_bits()
        elif not request.searches:
            beta = float(request.beta) if request.allocation == "atp" else 0.0
            bits = running.bits(beta)
        metrics: dict[str, dict[str, Metric]] = {"dense": running.measured(None)}
        if request.searches:
            beta, trials = running.search()
            bits = running.bits(beta)
        if request.baseline and not request.from_file and running.bits(0.0) != bits:
            metrics["uniform"] = running.measured(running.bits(0.0))
        metrics["quantized"] = running.measured(bits)
        done = running.quantize(bits)
        blocks = running.blocks(bits)

        def finish() -> QuantizeResult:
            sizes = [block.parameters for block in blocks]
            total = sum(sizes)
            notes = list(done.notes)
            if kind == "dense":
                notes.append(
                    f"weights are dense ({reason}): they stand for the codes and take no less room"
                )
            return QuantizeResult(
                source=source.text,
                settings=request.to_dict(),
                blocks=blocks,
                beta=beta,
                bits=average(sizes, [block.bits for block in blocks]),
                stored_bits=8 * packed_bytes(done.weights) / total,
                format=kind,
                metrics=metrics,
                trials=trials,
                notes=notes,
                difference=None,
                bytes_on_disk=None,
                seconds=time.perf_counter() - started,
                output=None,
                model=session.loaded.model,
            )

        if target is None:
            return finish()
        return write(session, request, done, finish, target, overwrite=overwrite)


def _format(session: Session, request: Request) -> tuple[str, str]:
    """The format to write, and why where it is dense.

    Raises:
        UsageError: the model cannot be packed as was asked for.
    """
    if request.format == "dense":
        return "dense", "as asked for"
    reason = cannot_pack(session.loaded, session.chains, symmetric=request.symmetric)
    if reason is None:
        return "compressed-tensors", ""
    if request.format == "compressed-tensors":
        raise UsageError(f"{reason}; take --format dense")
    return "dense", reason
