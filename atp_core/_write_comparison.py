"""Writing a comparison of allocations: its figures as data, as pictures, and every schedule."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from ._session import Session
from ._write import write_findings
from .checkpoint import atomic_directory
from .compared import ComparedCell, CompareResult
from .report.figures import rates_figure
from .report.quality import quality_figure

__all__ = ["COMPARISON_NAME", "write_comparison"]

COMPARISON_NAME: Final = "compare.json"

_SHOWN = 7
"""Schedules in one figure; more lines cannot be told apart."""


def write_comparison(
    session: Session, result: CompareResult, output: Path, *, overwrite: bool
) -> None:
    """Write ``compare.json``, ``schedules/``, ``atp.json`` and figures."""
    with atomic_directory(output, overwrite_ok=overwrite) as work:
        write_findings(session, work, COMPARISON_NAME, result.to_json())
        (work / "schedules").mkdir()
        for cell in result.cells:
            if cell.schedule is not None:
                file = work / "schedules" / f"{_slug(cell)}.json"
                file.write_text(json.dumps(cell.schedule.to_dict(), indent=2) + "\n", "utf-8")
        _figures(result, work)


def _slug(cell: ComparedCell) -> str:
    return re.sub(r"[^\w.=-]+", "-", f"{cell.method}-{cell.sparsity:g}-{cell.allocation}")


def _figures(result: CompareResult, work: Path) -> None:
    for method in dict.fromkeys(cell.method for cell in result.cells):
        cells = [cell for cell in result.cells if cell.method == method and cell.metrics]
        names = list(dict.fromkeys(name for cell in cells for name in cell.metrics))
        for name in names[:1]:
            panels = {
                f"S = {sparsity:g}": {
                    cell.allocation: cell.metrics[name]
                    for cell in cells
                    if cell.sparsity == sparsity and name in cell.metrics
                }
                for sparsity in dict.fromkeys(cell.sparsity for cell in cells)
            }
            for suffix in (".png", ".svg"):
                quality_figure(panels, work / f"{method}{suffix}", result.dense.get(name))
        for sparsity in dict.fromkeys(cell.sparsity for cell in cells):
            own = [cell for cell in cells if cell.sparsity == sparsity]
            shown = {
                cell.allocation: cell.schedule
                for cell in _foremost(own, names[0])
                if cell.schedule is not None
            }
            for suffix in (".png", ".svg"):
                rates_figure(shown, work / f"{method}-{sparsity:g}-rates{suffix}")


def _foremost(cells: list[ComparedCell], name: str) -> list[ComparedCell]:
    """Uniform, ATP and the best of the others, as many as a figure can show."""

    def place(cell: ComparedCell) -> tuple[bool, float]:
        metric = cell.metrics[name]
        value = -metric.value if metric.higher_is_better else metric.value
        return cell.allocation not in ("uniform", "atp"), value

    return sorted(cells, key=place)[:_SHOWN]
