"""Comparisons as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..evaluation.comparison import Comparison

__all__ = ["print_comparisons"]

_COLOURS = {"better": "green", "worse": "red", "within noise": "dim", "not comparable": "yellow"}


def print_comparisons(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print each figure beside that of the other model, with the verdict.

    Args:
        comparisons: in order; none prints nothing.
        console: where to print.
    """
    if not comparisons:
        return
    level = comparisons[0].level
    table = Table("metric", "compared with", title="paired by document or image")
    for head in ("this model", "other", f"difference, {level:.0%} interval"):
        table.add_column(head, justify="right")
    table.add_column("verdict")
    for one in comparisons:
        interval = ""
        if one.interval is not None:
            interval = f" [{one.interval[0]:.4g}, {one.interval[1]:.4g}]"
        table.add_row(
            escape(one.metric),
            escape(one.reference),
            f"{one.value:.4g}",
            f"{one.reference_value:.4g}",
            escape(f"{one.difference:+.4g}{interval}"),
            f"[{_COLOURS[one.verdict]}]{escape(one.text)}[/]",
        )
    console.print(table)
