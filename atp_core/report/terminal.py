"""Results as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .._document.wording import (
    HONEST_LINE,
    arrowed,
    duration,
    measured,
    number,
    percent,
    size,
    with_error,
)
from ..allocation.betas import beta_text

if TYPE_CHECKING:
    from ..records import Chain, Metric
    from ..results import EvaluateResult, InspectResult, PruneResult, SearchResult

__all__ = ["info_text", "print_evaluation", "print_inspection", "print_result", "print_search"]

_BAR = 20
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def print_result(result: PruneResult, console: Console) -> None:
    """Print what a pruning gave: the comparison on the report split, rates, size.

    Args:
        result: the run.
        console: where to print.
    """
    _print_rates(
        console,
        "rates",
        (
            (block.chain, block.name, block.achieved, block.parameters)
            for block in result.report.blocks
        ),
    )
    _print_schedule(result.search, console)
    if result.metrics["pruned"]:
        console.print(_comparison(result))
    for name, metric in result.metrics["pruned"].items():
        _line(console, f"{name}: {measured(metric)}", style="dim")
    _print_size(result, console)
    for note in dict.fromkeys(result.notes):
        _line(console, f"note: {note}", style="yellow")
    if result.output is not None:
        _line(console, f"written to {result.output} in {duration(result.seconds)}")


def print_search(
    result: SearchResult, console: Console, *, output: str | Path | None = None
) -> None:
    """Print what a search found: its trials and the rates.

    Args:
        result: the search.
        console: where to print.
        output: where it was written, if it was.
    """
    if result.trials:
        table = _table(f"trials: {result.objective} on the search split")
        for title in ("β", "stage", result.objective, "samples", "time"):
            table.add_column(title, justify="left" if title == "stage" else "right")
        for trial in result.trials:
            taken = trial.stage == "final" and trial.beta == result.beta
            table.add_row(
                beta_text(trial.beta, 5) + (" (uniform)" if trial.beta == 0 else ""),
                trial.stage,
                number(trial.objective),
                str(trial.samples),
                duration(trial.seconds),
                style="bold green" if taken else None,
            )
        console.print(table)
    schedule = result.schedule
    _print_rates(console, "schedule", ((*entry, None) for entry in schedule))
    _print_schedule(result, console)
    if output is not None:
        _line(console, f"written to {output} in {duration(result.seconds)}")


def print_evaluation(result: EvaluateResult, console: Console) -> None:
    """Print the metrics of one model.

    Args:
        result: the measurement.
        console: where to print.
    """
    table = _table(f"{result.source} on the report split")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, metric in result.metrics.items():
        table.add_row(escape(arrowed(metric, name)), with_error(metric))
    console.print(table)
    for name, metric in result.metrics.items():
        _line(console, f"{name}: {measured(metric)}", style="dim")
    if result.runtime:
        layers, sparse = len(result.runtime["layers"]), result.runtime["sparse_layers"]
        told = f"executed by {result.runtime['name']}: {sparse} of {layers} layers sparse"
        _line(console, f"{told} ({info_text(result.runtime['info'])})")


def info_text(info: Mapping[str, str]) -> str:
    """What is live of a runtime, on a line."""
    return ", ".join(f"{name} {value}" for name, value in info.items())


def print_inspection(result: InspectResult, console: Console, *, every: bool = False) -> None:
    """Print the chains of a model and the zeros in them.

    Args:
        result: the inspection.
        console: where to print.
        every: list every prunable weight, not the blocks only.
    """
    _line(console, f"{result.source} is handled by plugin {result.plugin}: {result.reason}")
    for chain in result.chains:
        console.print(_chain_table(chain, result, every))
        for name, why in chain.dense.items():
            _line(console, f"  dense: {name} ({why})", style="dim")
    prunable = sum(chain.parameters for chain in result.chains)
    share = 100 * prunable / result.total_parameters if result.total_parameters else 0.0
    text = f"{prunable:,} of {result.total_parameters:,} parameters are prunable ({share:.3g} %)"
    if result.zeros:
        zeros = sum(result.zeros.values())
        text += f"; {zeros:,} of them are zero ({100 * zeros / prunable:.4g} %)"
    _line(console, text)


# --- parts -------------------------------------------------------------------------------------


def _comparison(result: PruneResult) -> Table:
    """A metric a row; dense, uniform and pruned side by side, and what pruning did to it."""
    schedule = result.schedule
    names = {"dense": "dense", "uniform": "uniform", "pruned": schedule.allocation}
    if schedule.beta is not None:
        names["pruned"] += f", β = {beta_text(schedule.beta)}"
    present = [who for who in names if result.metrics.get(who)]
    table = _table(f"on the report split, at {percent(result.sparsity)} sparsity")
    table.add_column("metric")
    for who in present:
        table.add_column(names[who], justify="right", style="bold" if who == "pruned" else None)
    others = [who for who in present if who != "pruned"]
    for who in others:
        table.add_column(f"÷ {names[who]}", justify="right")
    for name, metric in result.metrics["pruned"].items():
        cells = [with_error(result.metrics[who].get(name)) for who in present]
        ratios = [_ratio(metric, result.metrics[who].get(name)) for who in others]
        table.add_row(escape(arrowed(metric, name)), *cells, *ratios)
    return table


def _print_schedule(search: SearchResult, console: Console) -> None:
    schedule = search.schedule
    text = f"{search.method}, {schedule.allocation}, target {percent(schedule.sparsity)}"
    if schedule.beta is not None:
        text += f", β = {beta_text(schedule.beta, 5)} (legal: 0 to {search.beta_limit:.4g})"
    if search.beta_auto is not None:
        text += ", measured from the growth of the error"
    elif search.trials:
        text += f", {len(search.trials)} trials in {duration(search.seconds)}"
    _line(console, text)


def _print_rates(
    console: Console, title: str, rows: Iterable[tuple[str, str, float, int | None]]
) -> None:
    """A table a chain: block, rate and a bar as long as the rate."""
    chains: dict[str, list[tuple[str, float, int | None]]] = {}
    for chain, block, rate, parameters in rows:
        chains.setdefault(chain, []).append((block, rate, parameters))
    for chain, blocks in chains.items():
        table = _table(f"{title}: chain {chain}")
        table.add_column("block")
        table.add_column("sparsity", justify="right")
        table.add_column("", min_width=_BAR, no_wrap=True)
        counted = any(parameters is not None for _, _, parameters in blocks)
        if counted:
            table.add_column("weights", justify="right")
        for block, rate, parameters in blocks:
            cells = [escape(block), f"{rate:.3f}", _bar(rate)]
            table.add_row(*cells, *([f"{parameters:,}"] if counted else []))
        console.print(table)


def _print_size(result: PruneResult, console: Console) -> None:
    blocks = result.report.blocks
    zeros = sum(block.zeros for block in blocks)
    prunable = sum(block.parameters for block in blocks)
    text = size(zeros, prunable, result.total_parameters)
    if result.bytes_on_disk:
        text += f"; {result.bytes_on_disk / 1e6:,.1f} MB on disk"
    _line(console, text)
    _line(console, HONEST_LINE, style="dim")


def _chain_table(chain: Chain, result: InspectResult, every: bool) -> Table:
    zeros, patterns = result.zeros, result.patterns
    patterned = any(patterns.get(block.name) for block in chain.blocks)
    table = _table(
        f"chain {chain.name}: {len(chain.blocks)} blocks, {chain.parameters:,} prunable weights"
    )
    table.add_column("block")
    if every:
        table.add_column("shape", justify="right")
    table.add_column("weights", justify="right")
    if zeros:
        table.add_column("sparsity", justify="right")
        table.add_column("", min_width=_BAR, no_wrap=True)
    if patterned:
        table.add_column("N:M")
    for block in chain.blocks:
        cells = [escape(block.name), *([""] if every else []), f"{block.parameters:,}"]
        if zeros:
            rate = zeros.get(block.name, 0) / block.parameters if block.parameters else 0.0
            cells += [f"{rate:.3f}", _bar(rate)]
        if patterned:
            cells.append(", ".join(patterns.get(block.name, ())))
        table.add_row(*cells)
        for weight in block.weights if every else ():
            rows, columns = weight.shape
            table.add_row(
                f"  {escape(weight.name)}", f"{rows}×{columns}", f"{weight.numel:,}", style="dim"
            )
    return table


# --- cells -------------------------------------------------------------------------------------


def _table(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", title_style="bold")


def _line(console: Console, text: str, style: str | None = None) -> None:
    # Names of files and data are the user's: square brackets in them are not markup.
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _bar(rate: float) -> str:
    """A bar of eighths of a character, full at rate 1."""
    eighths = round(min(max(rate, 0.0), 1.0) * _BAR * 8)
    whole, part = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[part] if part else "")


def _ratio(metric: Metric, other: Metric | None) -> str:
    if other is None or not other.value or not math.isfinite(metric.value / other.value):
        return "-"
    return f"{metric.value / other.value:.3g}×"
