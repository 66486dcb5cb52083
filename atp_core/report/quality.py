"""Allocations side by side: the figure of each, a panel a sparsity; and the same as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .._document.wording import arrowed, duration, measured, with_error
from .figures import COLOURS, T, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..compared import ComparedCell, CompareResult
    from ..records import Metric

__all__ = ["print_compared", "quality_figure"]

_WIDE = 3.0
"""Beyond this ratio of the extremes a linear axis hides the differences between the better ones."""


def quality_figure(
    panels: Mapping[str, Mapping[str, Metric]], target: T, dense: Metric | None = None
) -> T:
    """Draw one metric of every allocation, with its standard error; the best at the top.

    Args:
        panels: title → allocation → metric; the panels' metrics are the same.
        target: file or text to write.
        dense: the metric of the dense model, drawn as a line.

    Returns:
        What was written to.
    """
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    order = _ranked(names, list(panels.values()))
    width = 2.6 + 2.7 * len(panels)
    with drawing(target, (width, 1.5 + 0.32 * len(names))) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False).flatten()
        for axis, (title, metrics) in zip(axes, panels.items(), strict=True):
            _draw(axis, order, metrics, dense)
            axis.set_title(title)
        axes[0].set_yticks(range(len(order)), order)
        axes[0].set_ylim(len(order) - 0.5, -0.5)
        first = next(metric for panel in panels.values() for metric in panel.values())
        arrow = "higher" if first.higher_is_better else "lower"
        told = "" if dense is None else "; dotted: dense"
        figure.supxlabel(f"{first.name} ({arrow} is better{told})", fontsize=12)
    return target


def _ranked(names: Sequence[str], panels: Sequence[Mapping[str, Metric]]) -> list[str]:
    """Names by their mean rank over the panels, the best first."""
    ranks: dict[str, list[int]] = {name: [] for name in names}
    for panel in panels:
        known = [name for name in names if name in panel]
        known.sort(key=lambda name: _badness(panel[name]))
        for rank, name in enumerate(known):
            ranks[name].append(rank)
    return sorted(names, key=lambda name: sum(ranks[name]) / max(len(ranks[name]), 1))


def _badness(metric: Metric) -> float:
    value = -metric.value if metric.higher_is_better else metric.value
    return math.inf if math.isnan(value) else value


def _draw(
    axis: Axes, order: Sequence[str], metrics: Mapping[str, Metric], dense: Metric | None
) -> None:
    for i, name in enumerate(order):
        metric = metrics.get(name)
        if metric is None or not math.isfinite(metric.value):
            continue
        ours = name.split(":")[0] == "atp"
        axis.errorbar(
            [metric.value],
            [i],
            xerr=metric.stderr or 0.0,
            marker={"atp": "D", "uniform": "s"}.get(name.split(":")[0], "o"),
            markersize=7,
            color=COLOURS[1] if ours else "#555555" if name == "uniform" else COLOURS[0],
            capsize=3,
        )
    values = [metric.value for metric in metrics.values() if math.isfinite(metric.value)]
    if dense is not None and math.isfinite(dense.value):
        values.append(dense.value)
        axis.axvline(dense.value, color="#555555", linestyle=":", linewidth=1.5)
    if values and min(values) > 0 and max(values) / min(values) > _WIDE:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axis.set_xscale("log")
        wide = max(values) / min(values) > 100
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())


def print_compared(result: CompareResult, console: Console) -> None:
    """Print a table for every method: allocations down, sparsities across, and the search's cost.

    Args:
        result: the comparison.
        console: where to print.
    """
    names = list(dict.fromkeys(name for cell in result.cells for name in cell.metrics))
    for method in dict.fromkeys(cell.method for cell in result.cells):
        for name in names[:1]:
            console.print(_table(result, method, name))
    for name in names[:1]:
        metric = next(cell.metrics[name] for cell in result.cells if name in cell.metrics)
        _line(console, f"{name}: {measured(metric)}")
    if len(names) > 1:
        _line(console, f"also measured, in --json and compare.json: {', '.join(names[1:])}")
    for cell in result.cells:
        if cell.error:
            where = f"{cell.allocation}, {cell.method} at {cell.sparsity:g}"
            console.print(f"{where}: {cell.error}", style="yellow", markup=False, highlight=False)


def _table(result: CompareResult, method: str, name: str) -> Table:
    cells = [cell for cell in result.cells if cell.method == method]
    sparsities = list(dict.fromkeys(cell.sparsity for cell in cells))
    first = next((cell.metrics[name] for cell in cells if name in cell.metrics), None)
    title = f"{result.source}, {method}: {arrowed(first, name) if first else name}"
    dense = result.dense.get(name)
    if dense is not None:
        title += f", dense {with_error(dense)}"
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("allocation")
    for sparsity in sparsities:
        table.add_column(f"S = {sparsity:g}", justify="right")
        table.add_column("vs uniform")
    table.add_column("trials", justify="right")
    table.add_column("search", justify="right")
    best = {sparsity: _best(cells, sparsity, name) for sparsity in sparsities}
    for allocation in dict.fromkeys(cell.allocation for cell in cells):
        row = [escape(allocation)]
        own = {cell.sparsity: cell for cell in cells if cell.allocation == allocation}
        for sparsity in sparsities:
            cell = own.get(sparsity)
            metric = cell.metrics.get(name) if cell else None
            text = with_error(metric) if metric else "failed"
            row += [f"[bold]{text}[/]" if allocation == best[sparsity] else text]
            row += [escape(_verdict(cell, name))]
        row.append(str(sum(len(cell.trials) for cell in own.values())))
        row.append(duration(sum(cell.search_seconds for cell in own.values())))
        table.add_row(*row)
    return table


def _best(cells: Sequence[ComparedCell], sparsity: float, name: str) -> str:
    known = [cell for cell in cells if cell.sparsity == sparsity and name in cell.metrics]
    return min(known, key=lambda cell: _badness(cell.metrics[name])).allocation if known else ""


def _verdict(cell: ComparedCell | None, name: str) -> str:
    for one in cell.against_uniform if cell else ():
        if one["metric"] == name and cell is not None and cell.allocation != "uniform":
            return str(one["verdict"])
    return ""


def _line(console: Console, text: str) -> None:
    console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)
