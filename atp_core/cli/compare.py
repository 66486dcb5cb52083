"""``atp compare``: allocations side by side on one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from ._console import emit_json, stdout
from ._options import (
    BetaParam,
    data_options,
    executor_options,
    executor_settings,
    inputs_option,
    json_option,
    load_options,
    names_of,
    rates_of,
    task_options,
)

__all__ = ["command"]


@click.command("compare", short_help="Compare allocations on one model.")
@click.argument("source")
@click.option(
    "--allocations",
    metavar="A,B",
    default="all",
    help="Allocations, e.g. uniform,atp,owl:lambda=0.1,FILE.json; all (default) is every one that "
    "needs no search of its own, to which bayes-tpe or bayes-gp can be added: all,bayes-tpe.",
)
@click.option(
    "-s", "--sparsity", metavar="S,S", required=True, help="Target sparsities, e.g. 0.5,0.6,0.7."
)
@click.option(
    "--methods", metavar="A,B", default="wanda", help="Pruning methods (default wanda)."
)
@click.option("--beta", type=BetaParam(), help="β of ATP: search (default), auto or a number.")
@click.option("--chains", metavar="A,B", help="Prune these chains only.")
@click.option(
    "--objective", metavar="NAME", help="What searches optimize; default is the plugin's first."
)
@click.option(
    "--trial-samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Calibration samples of a search trial (default a quarter of --samples, at least 8).",
)
@inputs_option
@executor_options
@data_options
@task_options
@load_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory to write.",
)
@click.option("--resume", is_flag=True, help="Continue the interrupted run that was writing -o.")
@click.option(
    "--overwrite", is_flag=True, help="Replace an earlier output in -o, or an interrupted run."
)
@json_option
def command(
    source: str,
    allocations: str,
    sparsity: str,
    methods: str,
    output: Path | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Prune SOURCE with several allocations, and measure each on the report split.

    The model and the calibration data are read once. -o gets compare.json, every schedule (for
    `atp prune --schedule`) and figures.
    """
    sparsities = rates_of("--sparsity", sparsity)
    from ..api import compare
    from ..report.quality import print_compared
    from ._progress import bars

    settings = executor_settings(options)
    if "chains" in settings:
        settings["chains"] = names_of(settings["chains"])
    with bars() as progress:
        result = compare(
            source,
            allocations=names_of(allocations),
            sparsities=sparsities,
            methods=names_of(methods),
            output=output,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            **settings,
        )
    if as_json:
        emit_json(result.to_json())
    else:
        print_compared(result, stdout())
