"""How β was chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from io import StringIO
from typing import Any

from ..._document import Column, Details, Figure, Image, Paragraph, Part, Strong, Table, Text
from ..._document.wording import duration, number
from ...allocation.betas import beta_text
from ...records import Beta
from ..curves import Curve, beta_curves
from ._run import Run

__all__ = ["search"]


def search(run: Run) -> Iterator[Part]:
    """The objective against β, and every trial in a table."""
    yield Paragraph(_told(run))
    for chain, curve in beta_curves(run.trials, run.beta).items():
        file = f"objective-{chain}.png" if chain else "objective.png"
        if file in run.images:
            yield Image(file, f"{_objective(run)} against β")
        yield _figure(run, chain, curve)
    yield Details("All trials as a table", [_table(run)])


def _told(run: Run) -> str:
    asked = run.recipe.get("beta")
    split = "the search split, which shares no document with calibration or report data"
    if asked != "search":
        measured = run.outcome.beta_auto is not None
        origin = "measured from the growth of the error" if measured else "given"
        won = ", and the better one was taken" if measured else ""
        return f"β was {origin}. It was judged against 0, uniform sparsity, on {split}{won}."
    varied = any(isinstance(trial["beta"], Mapping) for trial in run.trials)
    chains = "Then the β of one chain after another was varied, the others' fixed. "
    return (
        f"Each trial pruned the model with one β and measured {_objective(run)} on {split}. "
        f"{chains if varied else ''}"
        "Most trials prune with part of the calibration data. What was best, and 0, which is "
        "uniform sparsity, were then confirmed with all of it, and the best was taken."
    )


def _objective(run: Run) -> str:
    return run.outcome.objective.name or "the objective"


def _figure(run: Run, chain: str, curve: Curve) -> Figure:
    objective, higher = _objective(run), run.outcome.objective.higher_is_better

    def draw() -> str:
        from ..figures import objective_figure

        target = StringIO()
        return objective_figure(
            curve.trials, target, objective, chosen=curve.chosen, higher_is_better=higher
        ).getvalue()

    about = f"the β of chain {chain}, the others' fixed" if chain else "β"
    shared = "" if chain or not isinstance(run.beta, Mapping) else ", one for all chains"
    ring = "choice" if curve.chosen is not None else "best"
    caption = f"{objective} on the search split against {about}{shared}; a ring marks the {ring}."
    return Figure(caption, _seen(curve, objective, higher), draw)


def _seen(curve: Curve, objective: str, higher: bool) -> str:
    values: dict[float, float] = {}
    # What was confirmed counts where a β was tried on both.
    for trial in sorted(curve.trials, key=lambda trial: trial["stage"] == "final"):
        values[trial["beta"]] = trial["objective"]
    finite = {beta: value for beta, value in values.items() if math.isfinite(value)}
    if not finite:
        return "No trial gave a finite value."
    text = f"{len(finite)} values of β from {min(finite):.4g} to {max(finite):.4g}."
    if 0.0 in finite:
        text += f" Uniform, β = 0: {number(finite[0.0])}."
    best = (max if higher else min)(finite, key=lambda beta: finite[beta])
    text += f" Best {objective}: {number(finite[best])} at β = {best:.4g}."
    if curve.chosen is not None:
        text += f" Taken: β = {curve.chosen:.4g}."
    if len(finite) < len(values):
        text += f" {len(values) - len(finite)} gave no finite value."
    return text


def _table(run: Run) -> Table:
    columns = [
        Column("β"),
        Column("stage"),
        Column(_objective(run), numeric=True),
        Column("samples", numeric=True),
        Column("time", numeric=True),
    ]
    return Table("Every trial", columns, [_row(run, trial) for trial in run.trials])


def _row(run: Run, trial: Mapping[str, Any]) -> list[Text]:
    beta: Beta = trial["beta"]
    text = beta_text(beta, 5) + (" (uniform)" if beta == 0 else "")
    taken = trial["stage"] == "final" and beta == run.beta
    return [
        Strong(f"{text} (taken)") if taken else text,
        str(trial["stage"]),
        number(trial["objective"]),
        f"{trial['samples']:,}" if trial["samples"] else "-",
        duration(trial["seconds"]),
    ]
