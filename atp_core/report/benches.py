"""What a timing gave, for the terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from .._document.wording import duration, megabytes, number, percent
from .terminal import info_text

if TYPE_CHECKING:
    from ..benched import BenchResult

__all__ = ["print_bench"]


def print_bench(result: BenchResult, console: Console) -> None:
    """Print the rates, how much faster sparse is, and what the weights take.

    Args:
        result: the timing.
        console: where to print.
    """
    table = Table(
        title=f"{result.source}: dense against {result.runtime}, on {result.device}, "
        f"{result.dtype}, {result.threads} threads",
        title_justify="left",
    )
    for title in ("", "batch", "dense", "sparse", "faster", "middle half of pairs"):
        table.add_column(title, justify="right" if title else "left")
    for work in result.workloads:
        low, high = work.spread
        unit = f"{work.unit}/s"
        table.add_row(
            work.name,
            str(work.batch),
            f"{number(work.dense_rate)} {unit}",
            f"{number(work.sparse_rate)} {unit}",
            f"{work.speedup:.2f}×",
            f"{low:.2f}–{high:.2f}",
        )
    console.print(table)

    def line(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    pairs = len(result.workloads[0].dense) if result.workloads else 0
    for told in dict.fromkeys(f"{work.name}: {work.convention}" for work in result.workloads):
        line(f"{told}; medians of {pairs} pairs", "dim")
    shrunk = result.sparse_bytes / result.dense_bytes if result.dense_bytes else 1.0
    line(
        f"weights in memory: {megabytes(result.dense_bytes)} dense, "
        f"{megabytes(result.sparse_bytes)} sparse ({shrunk:.3f})"
    )
    layers = result.acceleration.layers
    line(
        f"{result.acceleration.sparse_layers} of {len(layers)} layers run sparse "
        f"({percent(result.sparsity)} zeros in all of them)"
    )
    why = Counter(layer.reason for layer in layers if not layer.sparse)
    for reason, count in why.most_common(5):
        line(f"  {count} dense: {reason}", "dim")
    line(f"{result.runtime}: {info_text(result.info)}; {duration(result.seconds)} in all", "dim")
