"""Writing a diagnosis: its figures as data and as pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from ._session import Session
from ._write import write_findings
from .allocation.betas import beta_text
from .checkpoint import atomic_directory
from .diagnosed import DiagnosedAllocation, DiagnoseResult
from .records import Schedule
from .report.diagnosis import depth_figure
from .report.figures import objective_figure, rates_figure

__all__ = ["DIAGNOSIS_NAME", "write_diagnosis"]

DIAGNOSIS_NAME: Final = "diagnose.json"

_SHOWN = 7
"""Allocations in one figure; more lines cannot be told apart."""


def write_diagnosis(
    session: Session, result: DiagnoseResult, output: Path, *, overwrite: bool
) -> None:
    """Write ``diagnose.json``, ``atp.json`` and figures."""
    with atomic_directory(output, overwrite_ok=overwrite) as work:
        write_findings(session, work, DIAGNOSIS_NAME, result.to_json())
        for suffix in (".png", ".svg"):
            _figures(result, work, suffix)


def _figures(result: DiagnoseResult, work: Path, suffix: str) -> None:
    shown = _foremost(result)
    errors = {
        one.allocation: {chain: one.relative(chain) for chain in result.chains} for one in shown
    }
    depth_figure(errors, work / f"errors{suffix}")
    rates = {one.allocation: one.schedule for one in shown if one.schedule is not None}
    rates_figure(rates, work / f"allocations{suffix}")
    schedules = {
        _label(one.sparsity, one.schedule): one.schedule
        for one in result.schedules
        if one.schedule is not None
    }
    if schedules:
        rates_figure(schedules, work / f"schedules{suffix}")
    if result.sweep is not None:
        objective_figure(
            [trial.to_dict() for trial in result.sweep.trials],
            work / f"objective{suffix}",
            result.sweep.objective,
            chosen=math.nan,  # a sweep shows the curve and chooses nothing
            higher_is_better=result.sweep.higher_is_better,
        )


def _label(sparsity: float, schedule: Schedule) -> str:
    return f"S = {sparsity:g}, β = {beta_text(schedule.beta, 3)}"


def _foremost(result: DiagnoseResult) -> list[DiagnosedAllocation]:
    """Uniform, ATP and the others of least error, as many as a figure can show."""

    def place(one: DiagnosedAllocation) -> tuple[bool, float]:
        error = sum(one.total(chain) for chain in result.chains)
        return one.allocation not in ("uniform", "atp"), error

    known = [one for one in result.allocations if one.blocks]
    return sorted(known, key=place)[:_SHOWN]
