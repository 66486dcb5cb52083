"""A training's result for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from atp_core.report.comparisons import print_comparisons

from ._result import TuneResult

__all__ = ["print_tuned"]


def print_tuned(result: TuneResult, console: Console) -> None:
    """Print what was trained, what became of the loss, and each figure before and after.

    Args:
        result: to print.
        console: where to.
    """
    console.print(
        f"{escape(result.source)}: {result.steps} steps ({result.mode}, {result.trained:,} "
        f"parameters) on {result.samples:,} samples of {escape(result.dataset)} in "
        f"{result.seconds:.0f} s",
        highlight=False,
    )
    console.print(
        f"loss {result.loss_first:.4g} → {result.loss_last:.4g} (means of a tenth of the steps); "
        f"{100 * result.sparsity:.2f} % zeros, all {100 * result.sparsity_before:.2f} % of before "
        "among them",
        highlight=False,
    )
    for note in result.notes:
        console.print(f"note: {escape(note)}", highlight=False)
    print_comparisons(result.comparisons, console)
    console.print(f"written to {escape(str(result.output))}", highlight=False)
