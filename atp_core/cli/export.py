"""``atp export``: a packed, smaller form of a pruned model, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ._console import emit_json, stdout

if TYPE_CHECKING:
    from .._export import Form

__all__ = ["command"]


@click.command("export", short_help="Pack a pruned model, or unpack it.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["packed", "dense"]),
    required=True,
    help="packed: a bitmask and the nonzeros; dense: what other tools load.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    required=True,
    help="Directory to write.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier output in -o.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    directory: Path, form: Form, output: Path, overwrite: bool, as_json: bool
) -> None:
    """Write the model in DIR with its pruned weights packed, or dense again, without loss.

    `atp eval`, `atp inspect` and `atp prune` read packed directories too; other tools read dense
    ones.
    """
    from ..api import export
    from ._progress import bars

    with bars() as progress:
        result = export(
            directory, format=form, output=output, overwrite=overwrite, progress=progress
        )
    if as_json:
        emit_json(result.to_json())
        return
    console = stdout()
    megabytes = f"{result.bytes_before / 1e6:,.1f} MB → {result.bytes_after / 1e6:,.1f} MB"
    console.print(f"weight files: {megabytes}")
    if result.tensors:
        console.print(
            f"{result.tensors} packed tensors take {result.packed_to / 1e6:,.1f} MB, "
            f"{result.ratio:.3f} of their {result.packed_from / 1e6:,.1f} MB dense"
        )
    else:
        console.print("no tensor is sparse enough to be smaller when packed")
    console.print(f"written to {output}")
