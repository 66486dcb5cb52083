"""``atp slim``: remove heads and channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from atp_core.cli.kit import (
    BetaParam,
    SettingsParam,
    SparsityParam,
    bars,
    data_options,
    emit_json,
    json_option,
    load_options,
    names_of,
    overwrite_option,
    stdout,
)

__all__ = ["command"]


@click.command("slim", short_help="Remove heads and channels of a model.")
@click.argument("source")
@click.option(
    "-s",
    "--sparsity",
    type=SparsityParam(),
    required=True,
    help="Target S in [0, 1): share of the prunable weights to remove; or chain=rate,chain=rate.",
)
@click.option(
    "--importance",
    type=click.Choice(["wanda", "magnitude"]),
    default="wanda",
    help="Rank heads and channels by weights times input norms (default), or by weights alone.",
)
@click.option(
    "--allocation",
    metavar="NAME",
    help="How S is spread over blocks: atp (default), uniform, or another (docs/allocation.md).",
)
@click.option(
    "--allocation-options",
    type=SettingsParam(),
    help="Settings of the allocation, e.g. lambda=0.1; each has defaults.",
)
@click.option(
    "--beta",
    type=BetaParam(),
    help="Common difference of the progression: search (default), a number, or "
    "chain=number,chain=number.",
)
@click.option(
    "--beta-step",
    type=float,
    metavar="STEP",
    help="Search the whole grid of this step instead.",
)
@click.option(
    "--schedule",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Use the rates of this schedule.json; nothing is searched.",
)
@click.option("--chains", metavar="A,B", help="Remove from these chains only.")
@click.option(
    "--objective",
    metavar="NAME",
    help="What the search optimizes; default is the first metric of the model's plugin.",
)
@click.option(
    "--baseline/--no-baseline",
    default=None,
    help="Measure uniform rates beside the result (default).",
)
@data_options
@load_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory to write; `atp eval` and its like read it.",
)
@overwrite_option
@json_option
def command(source: str, as_json: bool, **options: Any) -> None:
    """Remove heads and channels of SOURCE, so that it gets smaller and faster with plain torch.

    A block's rate is the share of its prunable weights that goes, as near as whole heads and
    channels allow. Heads that share keys and values go together, and the width between blocks
    stays. OUT is read by `atp eval`, `atp inspect`, and `atp_structured.load` in Python.
    """

    from ._report import print_slim
    from ._slim import slim

    given = {key: value for key, value in options.items() if value is not None}
    if isinstance(chains := given.get("chains"), str):
        given["chains"] = names_of(chains)
    with bars() as progress:
        result = slim(source, progress=progress, **given)
    if as_json:
        emit_json(result.to_json())
    else:
        print_slim(result, stdout())
