"""The paper's Theorems 3.1 and 3.5 on trained models, as counts.

    python benchmarks/theory.py [--root DIR] [MODEL …]

3.1: does a weight's reconstruction error ‖(W − W̃)X‖² rise when a mask cuts more of it? Masks are
nested, in steps of a tenth, by magnitude and by Wanda's score; X are the inputs the dense model
gives the weight on its calibration data.

3.5: random schedules, each judged beside its rates in rising and in falling order, as the trials of
a search are judged. Rates are drawn evenly within half of min(S, 1 − S) of S, chain by chain, and
shifted to the budget. Blocks of a chain differ in size in some models, so a sorted schedule is
shifted to the budget again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _cifar10 import laid_out
from beta_auto import MODELS as OTHERS
from smollm2_grid import Lines

from atp_core._session import Session
from atp_core._workflow import Pruning, _Asked
from atp_core.allocation.budget import solve_intercept
from atp_core.engine.lockstep import Lockstep
from atp_core.engine.observation import BlockStatistics
from atp_core.engine.placement import Placement
from atp_core.engine.statistics import Gram
from atp_core.recipe import Recipe
from atp_core.records import Chain, Schedule, Source
from atp_core.trials.journal import Journal

OUTPUT = Path(__file__).resolve().parent / "results" / "theory.json"
MODELS = ("stories260k", "vit-cifar10", "clip-cifar10", "smollm2-135m")
SPARSITY = 0.6
SCHEDULES = 40
FEWER = {"smollm2-135m": 10}
"""Schedules of models on which a trial takes long."""
STEPS = 10


class _Grams:
    """As far as statistics go, a method."""

    name = "gram"
    calibrated = True

    def statistics(self, in_features: int, device: torch.device) -> Gram:
        return Gram(in_features, device)


def main() -> None:
    """Count on every model asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL")
    parser.add_argument("--root", type=Path, required=True, help="holds models/ and data/")
    args = parser.parse_args()
    with laid_out(args.root):
        for name in args.names or MODELS:
            recipe = Recipe.make({**OTHERS[name], "sparsity": SPARSITY})
            session = Session(recipe, Source(recipe.source), progress=Lines())
            found = {
                "sparsity": SPARSITY,
                "nested": nested(session),
                "orders": orders(session, FEWER.get(name, SCHEDULES)),
            }
            known = json.loads(OUTPUT.read_text("utf-8")) if OUTPUT.exists() else {}
            known[name] = found
            OUTPUT.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
            print(name, json.dumps(found["nested"]), flush=True)


def nested(session: Session) -> dict[str, dict[str, float]]:
    """Score → how many steps there were, and the share of them in which the error rose."""
    counts = {score: [0, 0] for score in ("magnitude", "wanda")}
    placement = Placement.of(session.chains, session.device)
    data = session.calibration.subset(8)
    with torch.inference_mode(), Lockstep(
        data.forward, data.batches, session.chains, placement
    ) as lockstep:
        for stop in lockstep:
            seen = BlockStatistics(stop.block, _Grams())  # type: ignore[arg-type]
            seen.run(stop.calls, data.batch_samples, placement)
            for weight in stop.block.weights:
                gram = seen.of(weight)
                if not isinstance(gram, Gram):
                    continue
                matrix = weight.matrix().float()
                scores = {
                    "magnitude": matrix.abs(),
                    "wanda": matrix.abs() * gram.matrix.diagonal().clamp_min(0).sqrt(),
                }
                for name, score in scores.items():
                    errors = _errors(matrix, score, gram.matrix.double())
                    counts[name][0] += STEPS
                    counts[name][1] += sum(a <= b for a, b in itertools.pairwise(errors))
    return {name: {"steps": n, "rose": rose / n} for name, (n, rose) in counts.items()}


def _errors(matrix: torch.Tensor, score: torch.Tensor, gram: torch.Tensor) -> list[float]:
    """‖(W − W̃)X‖² for masks that cut 0, 1/10, … of every row."""
    order = score.argsort(dim=1).argsort(dim=1)
    errors = []
    for step in range(STEPS + 1):
        cut = torch.where(order < step / STEPS * matrix.shape[1], matrix, 0).double()
        errors.append(float(((cut @ gram) * cut).sum()))
    return errors


def orders(session: Session, schedules: int) -> dict[str, Any]:
    """Costs of random schedules, and of their rates in rising and in falling order."""
    pruning = Pruning(session, Journal(None, {}))
    rng = random.Random(0)
    higher = None
    rows = []
    for _ in range(schedules):
        drawn = {
            chain.name: [_within(rng, SPARSITY) for _ in chain.blocks] for chain in session.chains
        }
        asked = []
        for order, arranged in ORDERS.items():
            schedule = _schedule(session.chains, {k: arranged(v) for k, v in drawn.items()})
            asked.append(_Asked(schedule, None, "search", order))
        trials = pruning._judge_schedules(asked)
        higher = pruning._known().higher_is_better
        rows.append({one.what: trial.objective for one, trial in zip(asked, trials, strict=True)})
    uniform = pruning._judge(0.0).objective
    sign = -1.0 if higher else 1.0
    return {
        "objective": pruning._known().name,
        "uniform": uniform,
        "schedules": rows,
        "rising wins": _share(rows, lambda row: sign * row["rising"] < sign * row["random"]),
        "falling wins": _share(rows, lambda row: sign * row["falling"] < sign * row["random"]),
        "rising beats uniform": _share(rows, lambda row: sign * row["rising"] < sign * uniform),
        "random beats uniform": _share(rows, lambda row: sign * row["random"] < sign * uniform),
    }


ORDERS: dict[str, Callable[[list[float]], list[float]]] = {
    "random": lambda rates: rates,
    "rising": sorted,
    "falling": lambda rates: sorted(rates, reverse=True),
}


def _within(rng: random.Random, sparsity: float) -> float:
    reach = min(sparsity, 1.0 - sparsity) / 2.0
    return rng.uniform(sparsity - reach, sparsity + reach)


def _schedule(chains: Sequence[Chain], rates: dict[str, list[float]]) -> Schedule:
    solved = {
        chain.name: dict(
            zip(
                (block.name for block in chain.blocks),
                solve_intercept(
                    [block.parameters for block in chain.blocks], rates[chain.name], SPARSITY
                ),
                strict=True,
            )
        )
        for chain in chains
    }
    return Schedule(solved, SPARSITY, "random")


def _share(rows: Sequence[dict[str, float]], holds: Callable[[dict[str, float]], bool]) -> float:
    return sum(map(holds, rows)) / len(rows)


if __name__ == "__main__":
    main()
