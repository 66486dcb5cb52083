"""``atp diagnose``: errors over depth, how they grow, and the β that follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from ._console import emit_json, stdout
from ._options import (
    BetaParam,
    SparsityParam,
    data_options,
    inputs_option,
    json_option,
    load_options,
    names_of,
    overwrite_option,
    rates_of,
)

__all__ = ["command"]


@click.command("diagnose", short_help="Show how errors grow over depth.")
@click.argument("source")
@click.option(
    "-s",
    "--sparsity",
    type=SparsityParam(),
    required=True,
    help="Target sparsity S the errors are measured at; or chain=rate,chain=rate.",
)
@click.option(
    "--allocations",
    metavar="A,B",
    default="uniform,atp",
    help="Allocations to measure (default uniform,atp), as those of `atp compare`; all is every "
    "one that needs no search of its own.",
)
@click.option(
    "--at",
    metavar="S,S",
    help="Further sparsities to show the schedule of ATP at (default S - 0.1 and S + 0.1).",
)
@click.option(
    "--beta-points",
    type=click.IntRange(min=2),
    metavar="N",
    help="Measure the objective on the search split at N evenly spaced β too.",
)
@click.option("--method", metavar="NAME", help="Pruning method (default wanda).")
@click.option(
    "--beta", type=BetaParam(), help="β of ATP: auto (from error growth, default) or a number."
)
@click.option("--beta-per-chain", is_flag=True, default=None, help="Measure a β for each chain.")
@click.option("--chains", metavar="A,B", help="Diagnose these chains only.")
@click.option(
    "--objective", metavar="NAME", help="What --beta-points measures; default is the plugin's "
    "first.",
)
@click.option(
    "--trial-samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Calibration samples error growth is measured on (default a quarter of --samples, at "
    "least 8).",
)
@inputs_option
@data_options
@load_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory to write.",
)
@overwrite_option
@json_option
def command(
    source: str,
    allocations: str,
    at: str | None,
    beta_points: int | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Show how the errors of pruned blocks grow over the depth of SOURCE.

    Prunes block by block beside a dense twin, and tells the error of every block, by how much it
    grows from block to block, and the β that follows. -o gets diagnose.json and figures.
    """
    sparsities = None if at is None else rates_of("--at", at)
    from ..api import diagnose
    from ..report.diagnosis import print_diagnosis
    from ._progress import bars

    settings = {key: value for key, value in options.items() if value is not None}
    if "chains" in settings:
        settings["chains"] = names_of(settings["chains"])
    with bars() as progress:
        result = diagnose(
            source,
            allocations=names_of(allocations),
            sparsities=sparsities,
            points=beta_points or 0,
            output=output,
            overwrite=overwrite,
            progress=progress,
            **settings,
        )
    if as_json:
        emit_json(result.to_json())
    else:
        print_diagnosis(result, stdout(), output=output)
