"""Figures of a run: the rates over depth, and the objective against β.

Drawn to be read on a phone as well as in print, told apart by marker and dash as well as by a
colour-blind-safe palette, and the same to the byte when drawn again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ..records import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "COLUMNS",
    "T",
    "Target",
    "drawing",
    "errors_figure",
    "legend",
    "line",
    "objective_figure",
    "over_depth",
    "rates_figure",
]

Target: TypeAlias = Path | StringIO
"""Where a figure goes: a file, whose suffix (".png", ".svg") settles the format, or a text, which
gets SVG of the width of a column and without a background."""

T = TypeVar("T", Path, StringIO)

# Okabe and Ito's palette, in an order whose neighbours differ in lightness too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")
_STYLE: dict[Any, Any] = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "svg.hashsalt": "atp-prune",
    "svg.fonttype": "none",
    # Names are the user's: a dollar in one begins no formula.
    "text.parse_math": False,
}
# On a page a figure is as wide as a column, and no wider than a phone can show in readable type.
_ON_A_PAGE: dict[Any, Any] = {"font.size": 11, "axes.titlesize": 12, "savefig.transparent": True}
_WIDTH = 5.2
# Beyond this ratio of the extremes, a linear axis hides the minimum.
_WIDE = 5.0
# Panels beside each other; more would be too small on a phone.
COLUMNS = 2
# Share of the width that a legend may take.
_FULL = 0.98


def rates_figure(schedules: Mapping[str, Schedule], target: T) -> T:
    """Draw the rates over depth, a panel a chain.

    Args:
        schedules: label → schedule; all of the same model.
        target: file or text to write.

    Returns:
        What was written to.
    """
    chains = list(dict.fromkeys(chain for s in schedules.values() for chain in s.rates))
    columns = min(len(chains), COLUMNS)
    rows = math.ceil(len(chains) / COLUMNS)
    size = (6.4 if columns == 1 else 9.6, 0.9 + 3.2 * rows)
    with drawing(target, size) as figure:
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
        for spare in panels[len(chains) :]:
            spare.remove()
        for panel, chain in zip(panels, chains, strict=False):
            _draw_rates(panel, chain, schedules, titled=len(chains) > 1)
        for panel in panels[: len(chains) : columns]:
            panel.set_ylabel("sparsity")
        panels[0].set_ylim(_rate_limits(schedules))
        legend(figure, panels[0])
    return target


def _draw_rates(
    panel: Axes, chain: str, schedules: Mapping[str, Schedule], *, titled: bool
) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    depth = 1
    for i, (label, schedule) in enumerate(schedules.items()):
        rates = list(schedule.rates.get(chain, {}).values())
        depth = max(depth, len(rates))
        line(panel, i, label, list(enumerate(rates, 1)))
    if titled:
        panel.set_title(chain)
    over_depth(panel, depth)
    # Steps that are whole percents.
    panel.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def line(panel: Axes, i: int, label: str, points: Sequence[tuple[int, float]]) -> None:
    """Draw line number `i` of a panel over the blocks."""
    panel.plot(
        [block for block, _ in points],
        [value for _, value in points],
        label=_shown(label),
        color=COLOURS[i % len(COLOURS)],
        linestyle=_DASHES[i % len(_DASHES)],
        # Many markers would run into a band.
        marker=_MARKERS[i % len(_MARKERS)],
        markevery=max(1, len(points) // 12),
        markersize=6,
    )


def over_depth(panel: Axes, depth: int) -> None:
    """Label and limit the axis of the blocks."""
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel("block, in the order of the forward pass")
    panel.set_xlim(0.5, depth + 0.5)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _rate_limits(schedules: Mapping[str, Schedule]) -> tuple[float, float]:
    """Limits that hold every rate, and do not blow a flat schedule up into noise."""
    rates = [rate for schedule in schedules.values() for _, _, rate in schedule] or [0.0, 1.0]
    middle = (min(rates) + max(rates)) / 2
    half = max(0.55 * (max(rates) - min(rates)), 0.06)
    return max(middle - half, -0.02), min(middle + half, 1.02)


def objective_figure(
    trials: Sequence[Mapping[str, Any]],
    target: T,
    metric: str,
    *,
    chosen: float | None = None,
    higher_is_better: bool = False,
) -> T:
    """Draw the objective on the search split against β.

    Trials of the stage "search" were pruned with part of the calibration data and those of the
    stage "final" with all of it, so the two are drawn apart.

    Args:
        trials: mappings with ``beta``, ``objective`` and, optionally, ``stage``.
        target: file or text to write.
        metric: name of the objective.
        chosen: the β that was taken; None takes the best trial's.
        higher_is_better: direction of the objective.

    Returns:
        What was written to.
    """
    stages: dict[str, dict[float, float]] = {}
    samples: dict[str, int] = {}
    for trial in trials:
        stage, value = str(trial.get("stage", "search")), float(trial["objective"])
        if math.isfinite(value):
            stages.setdefault(stage, {})[float(trial["beta"])] = value
            samples[stage] = int(trial.get("samples") or 0)
    from matplotlib.ticker import MaxNLocator

    with drawing(target, (6.4, 4.8)) as figure:
        panel = figure.subplots()
        # The final stage, on all calibration data, is the one that decided.
        decisive = stages.get("final") or stages.get("search") or {}
        if 0.0 in decisive:
            label = f"uniform (β = 0): {decisive[0.0]:.4g}"
            panel.axhline(decisive[0.0], color="#555555", linestyle=":", zorder=1, label=label)
        for i, stage in enumerate(sorted(stages, reverse=True)):
            _draw_stage(panel, stage, stages[stage], samples[stage], i, alone=len(stages) == 1)
        _mark_chosen(panel, decisive, chosen, higher_is_better)
        _scale(panel, [value for points in stages.values() for value in points.values()])
        reach = max((beta for points in stages.values() for beta in points), default=0.0) or 0.01
        panel.set_xlim(-0.06 * reach, 1.06 * reach)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6))
        panel.set_xlabel("β, rise of the sparsity from block to block")
        arrow = "higher" if higher_is_better else "lower"
        panel.set_ylabel(f"{metric} ({arrow} is better)")
        panel.margins(y=0.12)
        if stages:
            legend(figure, panel)
        else:
            text = panel.text(0.5, 0.5, "no trial gave a finite value", ha="center")
            text.set_transform(panel.transAxes)
    return target


def errors_figure(blocks: Sequence[tuple[float, float]], target: T) -> T:
    """Draw how far the outputs of the blocks of a chain are from those of the dense model.

    Args:
        blocks: of each block, in order, the squared error relative to the squared dense output:
            with what the pruned blocks before it hand on, and with dense inputs.
        target: file or text to write.

    Returns:
        What was written to.
    """
    labels = ("with the inputs it gets", "with dense inputs")
    with drawing(target, (6.4, 4.4)) as figure:
        panel = figure.subplots()
        for i, errors in enumerate(zip(*blocks, strict=True)):
            # A logarithm has no place for an error of 0.
            points = [(k, e) for k, e in enumerate(errors, 1) if math.isfinite(e) and e > 0]
            line(panel, i, labels[i], points)
        over_depth(panel, len(blocks))
        panel.set_ylabel("relative squared error")
        _scale(panel, [e for pair in blocks for e in pair if math.isfinite(e) and e > 0])
        legend(figure, panel)
    return target


def _draw_stage(
    panel: Axes, stage: str, points: Mapping[float, float], samples: int, i: int, *, alone: bool
) -> None:
    label = {"search": "trials", "final": "confirmed"}.get(stage, stage)
    if samples:
        label += f" on {samples} samples"
    panel.plot(
        sorted(points),
        [points[beta] for beta in sorted(points)],
        # Finalists are few and far apart: a line between them would suggest what was not measured.
        linestyle="-" if stage != "final" or (alone and len(points) > 2) else "none",
        marker=_MARKERS[i % len(_MARKERS)],
        markersize=7,
        color=COLOURS[i % len(COLOURS)],
        label=label,
        zorder=3 + i,
    )


def _mark_chosen(
    panel: Axes,
    decisive: Mapping[float, float],
    chosen: float | None,
    higher_is_better: bool,
) -> None:
    if not decisive:
        return
    if chosen is None:
        beta = (max if higher_is_better else min)(decisive, key=lambda beta: decisive[beta])
    else:
        beta = min(decisive, key=lambda beta: abs(beta - chosen))
        if not math.isclose(beta, chosen, rel_tol=1e-9, abs_tol=1e-12):
            return  # a β that was given and not judged
    value = decisive[beta]
    panel.plot(
        [beta],
        [value],
        linestyle="none",
        marker="o",
        markersize=16,
        markerfacecolor="none",
        markeredgecolor="black",
        markeredgewidth=2,
        label=f"chosen: β = {beta:.4g}, {value:.4g}",
        zorder=6,
    )


def _scale(panel: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis where the values span much, with ticks in plain figures."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not values or min(values) <= 0 or max(values) / min(values) < _WIDE:
        return
    panel.set_yscale("log")
    span = math.log10(max(values) / min(values))
    subs = (1.0, 2.0, 5.0) if span < 3 else (1.0,)
    panel.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, panel: Axes) -> None:
    """A legend below the panels, in as many rows as its labels need."""
    handles, labels = panel.get_legend_handles_labels()
    for rows in range(1, len(labels) + 1):
        columns = -(-len(labels) // rows)
        shown = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        if columns == 1 or shown.get_window_extent().width < _FULL * figure.bbox.width:
            return
        shown.remove()


def _shown(label: str) -> str:
    """A label that a legend shows: those that begin with an underscore it leaves out."""
    return f" {label}" if label.startswith("_") else label


@contextmanager
def drawing(target: Target, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure that is written to `target`, without touching what the caller does with pyplot."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style, written = _STYLE, "png"
    if isinstance(target, StringIO):
        style, written = {**_STYLE, **_ON_A_PAGE}, "svg"
        size = (_WIDTH, size[1] * _WIDTH / size[0])
    elif target.suffix.lower() == ".svg":
        written = "svg"
    # Dates and versions would make equal figures differ.
    metadata = {"Date": None, "Creator": None} if written == "svg" else {"Software": None}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A name in a script that the font lacks: a browser has another font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(target, format=written, dpi=160, metadata=metadata)
