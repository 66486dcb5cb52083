"""What an export wrote, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from .._document.wording import duration, megabytes, percent

if TYPE_CHECKING:
    from ..exported import ExportResult

__all__ = ["print_export"]


def print_export(result: ExportResult, console: Console) -> None:
    """Print how large the weights are in either form.

    Args:
        result: the export.
        console: where to print.
    """
    table = Table(title=f"{result.source}: weights", title_justify="left")
    for title in ("", "dense", "packed", "packed ÷ dense"):
        table.add_column(title, justify="left" if not title else "right")
    packed = sum(file.packed_tensors for file in result.files)
    tensors = sum(file.tensors for file in result.files)
    told = f"{packed} packed of {tensors} tensors, {percent(result.sparsity)} zeros"
    for what, dense, small, ratio in (
        (told, result.dense_bytes, result.packed_bytes, result.ratio),
        (
            "all weight files",
            result.dense_total_bytes,
            result.packed_total_bytes,
            result.total_ratio,
        ),
    ):
        table.add_row(what, megabytes(dense), megabytes(small), f"{ratio:.4f}")
    console.print(table)
    for name in result.left_out:
        console.print(f"left out: {name} (weights in another form)", style="yellow", markup=False)
    told = f"{result.format} weights written to {result.output} in {duration(result.seconds)}"
    console.print(told, markup=False, highlight=False, soft_wrap=True)
