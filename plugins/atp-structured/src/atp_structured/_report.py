"""What ``atp slim`` shows."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ._result import SlimBlock, SlimResult

__all__ = ["print_slim"]


def print_slim(result: SlimResult, console: Console) -> None:
    """Print what each block lost, the figures, and what a user must know."""
    table = Table(title="what is left", title_justify="left")
    for column in ("block", "rate", "removed", "heads", "channels", "parameters"):
        table.add_column(column, justify="left" if column == "block" else "right")
    for block in result.blocks:
        table.add_row(
            escape(block.name),
            f"{block.rate:.3f}",
            f"{block.achieved:.3f}",
            _left(block, "heads"),
            _left(block, "channels"),
            f"{block.parameters:,} of {block.parameters_dense:,}",
        )
    console.print(table)
    if any(result.metrics.values()):
        console.print(_figures(result))
    console.print(
        f"{result.parameters:,} of {result.parameters_dense:,} parameters are left; "
        f"{result.achieved:.1%} of the prunable weights are gone"
    )
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    if result.output is not None:
        console.print(f"written to {result.output}", markup=False)


def _left(block: SlimBlock, kind: str) -> str:
    """Units left of each part of a kind, such as "2 of 3"."""
    own = [group for group in block.groups if group.kind == kind]
    return ", ".join(f"{group.kept} of {group.of}" for group in own) or "-"


def _figures(result: SlimResult) -> Table:
    shown = {who: found for who, found in result.metrics.items() if found}
    table = Table(title="on the report split", title_justify="left")
    table.add_column("")
    for who in shown:
        table.add_column("slim" if who == "pruned" else who, justify="right")
    names = dict.fromkeys(name for found in shown.values() for name in found)
    for name in names:
        row = [found.get(name) for found in shown.values()]
        table.add_row(
            escape(name), *("-" if metric is None else f"{metric.value:.5g}" for metric in row)
        )
    return table
