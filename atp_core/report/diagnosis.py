"""A diagnosis for people: errors over depth as a figure, and tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .._document.wording import duration, number
from ..allocation.betas import beta_text
from .figures import COLUMNS, T, drawing, legend, line, over_depth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..diagnosed import ChainGrowth, DiagnosedAllocation, DiagnoseResult

__all__ = ["depth_figure", "print_diagnosis"]


def depth_figure(errors: Mapping[str, Mapping[str, Sequence[float]]], target: T) -> T:
    """Draw the errors over depth, a panel a chain and a line an allocation.

    Args:
        errors: allocation → chain → relative squared error of every block, in order.
        target: file or text to write.

    Returns:
        What was written to.
    """
    chains = list(dict.fromkeys(chain for own in errors.values() for chain in own))
    columns = max(min(len(chains), COLUMNS), 1)
    rows = math.ceil(len(chains) / COLUMNS) or 1
    size = (6.4 if columns == 1 else 9.6, 0.9 + 3.5 * rows)
    with drawing(target, size) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for spare in panels[len(chains) :]:
            spare.remove()
        for i, chain in enumerate(chains):
            own = {name: found.get(chain, ()) for name, found in errors.items()}
            _draw(panels[i], own, chain if len(chains) > 1 else "")
            if i % columns == 0:
                panels[i].set_ylabel("relative squared error")
        legend(figure, panels[0])
    return target


def _draw(panel: Axes, errors: Mapping[str, Sequence[float]], title: str) -> None:
    depth = max((len(own) for own in errors.values()), default=1) or 1
    drawn: list[float] = []
    for i, (name, own) in enumerate(errors.items()):
        # A logarithm has no place for an error of 0.
        points = [(k, e) for k, e in enumerate(own, 1) if math.isfinite(e) and e > 0]
        drawn += [e for _, e in points]
        line(panel, i, name, points)
    if title:
        panel.set_title(title)
    over_depth(panel, depth)
    if drawn:
        _logarithmic(panel, math.log10(max(drawn) / min(drawn)))


def _logarithmic(panel: Axes, span: float) -> None:
    """Growth by a factor a block is a straight line; ticks are plain figures.

    Args:
        panel: what to scale.
        span: decades between the extremes.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    panel.set_yscale("log")
    if span < 0.5:
        panel.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    else:
        subs = (1.0,) if span >= 3 else (1.0, 2.0, 5.0)
        panel.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


def print_diagnosis(
    result: DiagnoseResult, console: Console, *, output: str | Path | None = None
) -> None:
    """Print the errors of every allocation, and for every chain how errors grow.

    Args:
        result: the diagnosis.
        console: where to print.
        output: where it was written, if it was.
    """
    title = f"{result.source}, {result.method} at S = {result.sparsity:g}: errors"
    _line(console, title, "bold")
    console.print(_errors(result))
    _line(
        console,
        "squared errors of block outputs relative to the dense ones, on "
        f"{result.samples} calibration samples of {result.calibration}",
        "dim",
    )
    for one in result.allocations:
        if one.error:
            _line(console, f"{one.allocation}: {one.error}", "yellow")
    for chain in result.chain_growth:
        _line(console, _grown(chain))
    if result.growth is not None:
        closed, taken = result.growth["closed_form"], result.growth["beta"]
        _line(
            console,
            f"predicted β = ln(c)/a = {beta_text(closed)} in closed form, "
            f"{beta_text(result.growth['recursion'])} with each block's own figures; "
            f"taken β = {beta_text(taken)} (legal: 0 to {result.beta_limit:.4g})",
        )
    else:
        _line(console, f"error growth: {result.growth_error}", "yellow")
    for at in result.schedules:
        if at.error:
            _line(console, f"atp at S = {at.sparsity:g}: {at.error}", "yellow")
    if result.sweep is not None:
        console.print(_sweep(result))
    if output is not None:
        _line(console, f"written to {output} in {duration(result.seconds)}")


def _errors(result: DiagnoseResult) -> Table:
    table = Table()
    table.add_column("allocation")
    chains = result.chains
    for chain in chains:
        prefix = f"{escape(chain)}: " if len(chains) > 1 else ""
        for column in ("total", "last block", "÷ uniform"):
            table.add_column(prefix + column, justify="right")
    uniform = next((one for one in result.allocations if one.allocation == "uniform"), None)
    for one in result.allocations:
        cells = [cell for chain in chains for cell in _cells(one, uniform, chain)]
        table.add_row(escape(one.allocation), *(cells if one.blocks else ["failed"]))
    return table


def _cells(
    one: DiagnosedAllocation, uniform: DiagnosedAllocation | None, chain: str
) -> tuple[str, str, str]:
    base = uniform.last(chain) if uniform is not None and uniform.blocks else math.nan
    ratio = one.last(chain) / base if base > 0 else math.nan
    times = f"{ratio:.3g}×" if math.isfinite(ratio) else "-"
    return number(one.total(chain)), number(one.last(chain)), times


def _grown(chain: ChainGrowth) -> str:
    fit = chain.fit
    return (
        f"chain {chain.chain}: c = {chain.growth:.4g} (ln c ± {_figure(fit['growth_stderr'])}, "
        f"R² {_figure(fit['growth_r2'])}), a = {chain.slope:.4g} "
        f"± {_figure(fit['slope_stderr'])} (R² {_figure(fit['slope_r2'])}), "
        f"β = ln(c)/a = {chain.beta:.4g} ± {_figure(fit['beta_stderr'])}"
    )


def _figure(value: float | None) -> str:
    return "?" if value is None else f"{value:.2g}"


def _sweep(result: DiagnoseResult) -> Table:
    sweep = result.sweep
    assert sweep is not None
    table = Table()
    table.add_column("β", justify="right")
    table.add_column(escape(f"{sweep.objective} on the search split"), justify="right")
    for trial in sweep.trials:
        table.add_row(beta_text(trial.beta), number(trial.objective))
    return table


def _line(console: Console, text: str, style: str | None = None) -> None:
    # Names of files and data are the user's: square brackets in them are not markup.
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
