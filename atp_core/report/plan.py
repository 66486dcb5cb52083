"""A plan as tables, for ``--dry-run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ..results import PlanResult

__all__ = ["print_plan"]


def print_plan(plan: PlanResult, console: Console) -> None:
    """Print what a run would do."""
    console.print(
        f"[bold]{plan.source}[/] is handled by plugin [bold]{plan.plugin}[/]: {plan.reason}",
        highlight=False,
    )
    for chain in plan.chains:
        table = Table(
            title=f"chain {chain.name}: {len(chain.blocks)} blocks, "
            f"{chain.parameters:,} prunable weights",
            title_justify="left",
        )
        table.add_column("block")
        table.add_column("weights", justify="right")
        for label in plan.schedules:
            table.add_column(label, justify="right")
        for block in chain.blocks:
            rates = [schedule.rates[chain.name][block.name] for schedule in plan.schedules.values()]
            table.add_row(block.name, f"{block.parameters:,}", *(f"{rate:.3f}" for rate in rates))
        console.print(table)
        for name, why in chain.dense.items():
            console.print(f"  dense: {name} ({why})", style="dim", highlight=False)
    if plan.trials:
        start = ", ".join(f"{beta:.4g}" for beta in plan.trials)
        console.print(
            f"search: β from 0 to {plan.beta_limit:.4g}, starting with {start}; "
            f"at most {plan.most_trials} trials",
            highlight=False,
        )
    elif plan.most_trials:
        console.print(f"search: {plan.most_trials} trials", highlight=False)
    elif plan.beta_limit:
        console.print(f"legal range of β: 0 to {plan.beta_limit:.4g}", highlight=False)
    for note in plan.notes:
        console.print(f"note: {note}", style="yellow", highlight=False)
    data = "none needed" if not plan.samples else f"{plan.samples} samples"
    if plan.samples and plan.seqlen:
        data += f" of {plan.seqlen} tokens"
    console.print(f"calibration: {data}; method: {plan.method}", highlight=False)
    console.print(f"memory: about {plan.memory_bytes / 1e9:.1f} GB", highlight=False)
    for part, size in plan.memory_parts.items():
        console.print(f"  {part}: {size / 1e9:.2f} GB", style="dim", highlight=False)
    time = "not known" if plan.seconds is None else f"about {max(plan.seconds / 60, 0.1):.1f} min"
    console.print(f"time: {time} on this CPU, from its matrix product rate", highlight=False)
