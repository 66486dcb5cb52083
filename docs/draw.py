"""Draws the figures of the site from recorded results, each for light and for dark pages.

    python docs/draw.py

The files are kept with the pages, because what matplotlib writes differs from version to version;
a note in each says which results it shows, and a test compares that with the results there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
GRID = RESULTS / "smollm2_grid.json"
GROWTH = RESULTS / "growth.json"
FIGURES = DOCS / "figures"
BLOCKS = 30

# Okabe and Ito's palette: told apart by colour-blind readers too, and by marker besides.
COLOURS = ("#0072B2", "#D55E00", "#009E73")
DARK_COLOURS = ("#56B4E9", "#E69F00", "#33C79A")
MARKERS = ("o", "s", "^")


def cells() -> dict[str, Any]:
    """Sparsity → what was recorded of Wanda at it."""
    grid = json.loads(GRID.read_text("utf-8"))["cells"]
    return {sparsity: grid[f"wanda {sparsity}"] for sparsity in ("0.5", "0.6", "0.7")}


def axes() -> dict[str, Any]:
    """Size that grows → what was recorded of pruning."""
    found: dict[str, Any] = json.loads(GROWTH.read_text("utf-8"))["axes"]
    return found


def digest() -> str:
    """Tells which results the figures show."""
    shown: dict[str, Any] = {
        sparsity: [cell["beta"], cell["trials"]] for sparsity, cell in cells().items()
    }
    shown["growth"] = axes()
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]


def curve(cell: dict[str, Any]) -> tuple[list[float], list[float]]:
    """β and perplexity on the search split, of the trials on part of the calibration data."""
    trials = sorted((t for t in cell["trials"] if t["stage"] == "search"), key=lambda t: t["beta"])
    return [t["beta"] for t in trials], [t["objective"] for t in trials]


def draw_beta(figure: Any, ink: str, colours: tuple[str, ...]) -> None:
    """The perplexity against β, relative to uniform sparsity, for three sparsities."""
    panel = figure.subplots()
    for i, (sparsity, cell) in enumerate(cells().items()):
        betas, values = curve(cell)
        ratios = [value / values[0] for value in values]
        # The end of the range at 0.7 is several times worse than uniform; the axis ends before.
        points = [(b, r) for b, r in zip(betas, ratios, strict=True) if r < 1.3]
        panel.plot(*zip(*points, strict=True), color=colours[i], marker=MARKERS[i], markersize=6,
                   label=f"S = {sparsity}")  # fmt: skip
        taken = min(points, key=lambda point: abs(point[0] - cell["beta"]))
        panel.plot(*taken, marker="o", markersize=15, markerfacecolor="none", markeredgecolor=ink,
                   markeredgewidth=1.8, linestyle="none",
                   label="β that was taken" if i == 2 else None)  # fmt: skip
    panel.axhline(1.0, color=ink, linestyle=":", linewidth=1.2)
    panel.set_xticks([0, 0.005, 0.01, 0.015])
    panel.set_xlabel("β, rise of the rate from block to block")
    panel.set_ylabel("perplexity ÷ that of uniform")
    panel.set_ylim(0, 1.35)
    panel.legend(loc="upper left", ncols=2)


def draw_rates(figure: Any, ink: str, colours: tuple[str, ...]) -> None:
    """Rates over depth at 70 %, uniform and found."""
    beta = cells()["0.7"]["beta"]
    panel = figure.subplots()
    blocks = range(1, BLOCKS + 1)
    start = 0.7 - beta * (BLOCKS - 1) / 2
    panel.plot(blocks, [0.7] * BLOCKS, color=colours[1], linestyle="--", label="uniform")
    panel.plot(blocks, [start + beta * (i - 1) for i in blocks], color=colours[0], marker="o",
               markevery=3, markersize=6, label=f"ATP, β = {beta:.4f}")  # fmt: skip
    panel.set_xlabel("block, in the order of the forward pass")
    panel.set_ylabel("share of its weights cut")
    panel.set_ylim(0, 1)
    panel.legend(loc="lower right")


def draw_search(figure: Any, ink: str, colours: tuple[str, ...]) -> None:
    """The search at 70 %: perplexity against β."""
    cell = cells()["0.7"]
    panel = figure.subplots()
    betas, values = curve(cell)
    panel.plot(betas, values, color=colours[0], marker="o", markersize=6)
    panel.plot([betas[0]], [values[0]], color=colours[1], marker="s", markersize=9)
    panel.annotate("uniform", (betas[0], values[0]), textcoords="offset points", xytext=(10, -3),
                   color=ink)  # fmt: skip
    best = min(range(len(betas)), key=lambda i: abs(betas[i] - cell["beta"]))
    panel.plot([betas[best]], [values[best]], marker="o", markersize=15, markerfacecolor="none",
               markeredgecolor=ink, markeredgewidth=1.8)  # fmt: skip
    panel.set_yscale("log")
    panel.set_yticks([500, 1000, 2000, 5000, 10000], ["500", "1000", "2000", "5000", "10000"])
    panel.minorticks_off()
    panel.set_xlabel("β")
    panel.set_ylabel("perplexity, search split")


def draw_growth(figure: Any, ink: str, colours: tuple[str, ...]) -> None:
    """Seconds of pruning and of two forwards against each size, all axes logarithmic."""
    labels = {"forwards": "two forward passes", "wanda": "Wanda", "sparsegpt": "SparseGPT"}
    panels = figure.subplots(1, len(axes()), sharey=True)
    for panel, (axis, found) in zip(panels, axes().items(), strict=True):
        sizes = [row["size"] for row in found["rows"]]
        for i, (name, label) in enumerate(labels.items()):
            times = [row["seconds"][name] for row in found["rows"]]
            panel.plot(sizes, times, color=colours[i], marker=MARKERS[i], markersize=6, label=label)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
        panel.minorticks_off()
        panel.set_xlabel(axis)
    panels[0].set_ylabel("seconds")
    panels[1].legend(loc="lower right", fontsize=10)


DRAWN: dict[str, tuple[Callable[[Any, str, tuple[str, ...]], None], tuple[float, float]]] = {
    "beta": (draw_beta, (5.8, 4.0)),
    "growth": (draw_growth, (9.6, 3.8)),
    "rates": (draw_rates, (4.8, 3.6)),
    "search": (draw_search, (4.8, 3.6)),
}


def main() -> None:
    """Write every figure twice."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    for name, (draw, size) in DRAWN.items():
        for suffix, ink, grid, colours in (
            ("", "#222222", "#dddddd", COLOURS),
            ("-dark", "#dddddd", "#444444", DARK_COLOURS),
        ):
            style: dict[Any, Any] = {
                "font.size": 12,
                "axes.grid": True,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.facecolor": "none",
                "grid.color": grid,
                "lines.linewidth": 2.0,
                "legend.frameon": False,
                "svg.hashsalt": "atp-prune",
                "svg.fonttype": "path",
                **dict.fromkeys(
                    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color",
                     "ytick.color"),
                    ink,
                ),
            }  # fmt: skip
            with matplotlib.rc_context(style):
                figure = Figure(figsize=size, layout="constrained", facecolor="none")
                FigureCanvasSVG(figure)
                draw(figure, ink, colours)
                note = {"Date": None, "Creator": None, "Description": f"results {digest()}"}
                figure.savefig(FIGURES / f"{name}{suffix}.svg", metadata=note)


if __name__ == "__main__":
    main()
