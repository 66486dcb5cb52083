"""How good are β's that need no search: the regret of each against the full search.

    python benchmarks/beta_auto.py [--root DIR] [MODEL …]

For every model and sparsity, β is taken from each estimator and judged as a trial of the search is
(same calibration subset, same search split); the regret is how much worse its objective is than the
best one of the search. What is in benchmarks/results/beta_auto.json already is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from _cifar10 import laid_out
from allocations import MODELS as COMPARED
from modality_grid import MODELS as OTHERS
from smollm2_grid import Lines

from atp_core._session import Session
from atp_core._workflow import Pruning
from atp_core.engine.errors import measure_errors
from atp_core.recipe import Recipe
from atp_core.records import Source
from atp_core.trials import best
from atp_core.trials.journal import Journal

OUTPUT = Path(__file__).resolve().parent / "results" / "beta_auto.json"
SPARSITIES = (0.5, 0.6, 0.7, 0.8)
PRIOR = 0.25
"""Share of the legal range that the estimator "share" takes, whatever the model."""
PROXY_BETAS = 9
PROXY_SAMPLES = 4
_KEYS = ("allocations", "sparsities", "methods")
MODELS = {
    name: {key: value for key, value in settings.items() if key not in _KEYS}
    for name, settings in {**COMPARED, **OTHERS}.items()
    if "," not in name
}


def main() -> None:
    """Measure on every model asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL")
    parser.add_argument("--root", type=Path, required=True, help="holds models/ and data/")
    args = parser.parse_args()
    found = json.loads(OUTPUT.read_text("utf-8")) if OUTPUT.exists() else {}
    with laid_out(args.root):
        for name in args.names or MODELS:
            _fill(MODELS[name], found.setdefault(name, {}), found)


def _fill(settings: dict[str, Any], model: dict[str, Any], found: dict[str, Any]) -> None:
    first: Session | None = None
    for sparsity in SPARSITIES:
        key = f"{sparsity:g}"
        if key in model:
            continue
        recipe = Recipe.make({**settings, "sparsity": sparsity})
        first = first or Session(recipe, Source(recipe.source), progress=Lines())
        session = first.again(recipe)
        pruning = Pruning(session, Journal(None, {}))
        limit = session.beta_limit(session.chains)
        searched, trials = pruning._search(limit)
        higher = pruning._known().higher_is_better
        started = time.perf_counter()
        measured = pruning.measure()
        seconds = time.perf_counter() - started
        estimates = {
            "closed form": min(max(measured["closed_form"], 0.0), limit / 2),
            "recursion": measured["beta"],
            "share of the range": PRIOR * limit,
        }
        started = time.perf_counter()
        estimates["last block's error"] = _proxy(session, pruning, limit)
        proxy_seconds = time.perf_counter() - started
        least = best(trials, higher).cost(higher)
        model[key] = {
            "limit": limit,
            "searched": searched[0],
            "search_seconds": sum(trial.seconds for trial in trials),
            "objective": pruning._known().name,
            "best": best(trials, higher).objective,
            "uniform": pruning._judge(0.0).objective,
            "measure_seconds": seconds,
            "proxy_seconds": proxy_seconds,
            "estimates": {
                name: _judged(pruning, beta, higher, least) for name, beta in estimates.items()
            },
            "uniform_regret": _regret(pruning._judge(0.0).cost(higher), least),
        }
        print(key, json.dumps(model[key]), flush=True)
        OUTPUT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _judged(pruning: Pruning, beta: float, higher: bool, least: float) -> dict[str, float]:
    trial = pruning._judge(beta)
    regret = _regret(trial.cost(higher), least)
    return {"beta": beta, "objective": trial.objective, "regret": regret}


def _regret(cost: float, least: float) -> float:
    """How much worse, in shares: of a figure of which lower is better; else in its own unit."""
    return cost / least - 1.0 if least > 0 else cost - least


def _proxy(session: Session, pruning: Pruning, limit: float) -> float:
    """The β of the least relative error of the last blocks, over a grid, on a few samples."""
    data = session.calibration.subset(PROXY_SAMPLES)
    errors = {}
    for k in range(PROXY_BETAS):
        beta = limit * k / PROXY_BETAS
        session.restore()
        found = measure_errors(
            session.chains,
            pruning.schedule(beta),
            session.method(),
            data,
            device=session.device,
            progress=session.progress,
        )
        last = {block.chain: block for block in found}
        errors[beta] = sum(math.log(block.error / block.norm) for block in last.values())
    return min(errors, key=lambda beta: errors[beta])


if __name__ == "__main__":
    main()
