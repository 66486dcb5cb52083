"""``atp prune``: prune a model and write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from ._console import emit_json, stdout
from ._options import (
    data_options,
    load_options,
    memory_options,
    output_options,
    recipe_from,
    schedule_options,
    task_options,
)

__all__ = ["command"]


@click.command("prune", short_help="Prune a model and write it.")
@click.argument("source", required=False)
@schedule_options
@data_options
@task_options
@load_options
@memory_options
@output_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show chains, schedule, trials, memory and time; load no weights, write nothing.",
)
@click.option(
    "--fail-if",
    "gates",
    multiple=True,
    metavar="GATE",
    help="End with exit code 5 if a metric of the pruned model is past a value ('perplexity>30').",
)
def command(
    source: str | None,
    recipe_file: Path | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    dry_run: bool,
    gates: tuple[str, ...],
    **options: Any,
) -> None:
    """Prune SOURCE to a target sparsity and write it in its ecosystem's own layout.

    SOURCE is a model's name, a directory or a file; the installed plugins say what they handle
    (`atp plugins list`).
    """
    recipe = recipe_from(source, recipe_file, options)
    from ..errors import UsageError
    from ..gates import check_gates, parse_gates
    from ..records import Source

    of_metrics, _ = parse_gates(gates, compares=False)
    if dry_run:
        from .._plan import make_plan
        from .._session import Session
        from ..report.plan import print_plan

        plan = make_plan(Session(recipe, Source(recipe.source)))
        if as_json:
            emit_json(plan.to_json())
        else:
            print_plan(plan, stdout())
        return
    if recipe.output is None:
        raise UsageError("say where to write the pruned model: -o DIR")
    from ..api import run_prune
    from ..report.comparisons import print_comparisons
    from ..report.terminal import print_result
    from ._progress import bars

    with bars() as progress:
        result = run_prune(
            recipe,
            Source(recipe.source),
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        emit_json(result.to_json())
    else:
        print_result(result, stdout())
        print_comparisons(result.comparisons, stdout())
    check_gates(of_metrics, result.metrics["pruned"])
