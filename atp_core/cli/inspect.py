"""``atp inspect``: the chains of a model, and the zeros in them."""

from __future__ import annotations

from typing import Any

import rich_click as click

from ._console import emit_json, stdout
from ._options import json_option, load_options

__all__ = ["command"]


@click.command("inspect", short_help="Show chains, blocks and zeros.")
@click.argument("source")
@click.option(
    "--weights/--no-weights",
    default=True,
    help="Read the weights and count zeros (default), or build the architecture only.",
)
@click.option("--all", "every", is_flag=True, help="List every prunable weight.")
@load_options
@json_option
def command(source: str, weights: bool, every: bool, as_json: bool, **options: Any) -> None:
    """Show what of SOURCE can be pruned, what stays dense, and how sparse it is."""
    from ..api import inspect
    from ..report.terminal import print_inspection

    given = {key: value for key, value in options.items() if value is not None}
    result = inspect(source, weights=weights, **given)
    if as_json:
        emit_json(result.to_json())
    else:
        print_inspection(result, stdout(), every=every)
