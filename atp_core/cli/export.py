"""``atp export``: the weights of a saved model, packed or dense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from ._console import emit_json, stdout
from ._options import json_option, overwrite_option

__all__ = ["command"]


@click.command("export", short_help="Pack the weights of a pruned model.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--format",
    type=click.Choice(["packed", "dense"]),
    default="packed",
    help="Pruned weights as a mask of bits and the values that are left (default), or dense.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="OUT",
    help="Directory to write.",
)
@overwrite_option
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Write the saved model in DIRECTORY to OUT with its zeros packed, or dense again.

    Nothing is lost: what was packed comes back bit for bit. A tensor is packed only where that
    makes it smaller, and everything but the weights is copied. `atp eval`, `atp bench` and
    `atp prune` read packed directories like dense ones; other libraries need --format dense.
    """
    from ..api import export
    from ..report.exports import print_export
    from ._progress import bars

    with bars() as progress:
        result = export(progress=progress, **options)
    if as_json:
        emit_json(result.to_json())
    else:
        print_export(result, stdout())
