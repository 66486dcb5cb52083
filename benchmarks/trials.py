"""How good is a β that short trials choose: all samples in every trial against the defaults.

    python benchmarks/trials.py --root DIR [MODEL …]

β is searched on each model and sparsity three times: with all calibration samples in each trial and
the finest search (a grid of 16 steps, 8 on SmolLM2), with all of them and the default search, and
with the default number of samples. Then each β is judged with all samples on the search split.
The regret is how much worse it is there than the best β of the finest search.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from _recorded import Row, arguments, record
from beta_auto import MODELS as OTHERS
from smollm2_grid import Lines

from atp_core._session import Session
from atp_core._workflow import Pruning
from atp_core.recipe import Recipe
from atp_core.records import Source
from atp_core.trials import best
from atp_core.trials.journal import Journal

SPARSITIES = (0.5, 0.6, 0.7)
STEPS = {"smollm2-135m": 8}
"""Of the grid; 16 where nothing is said."""
MODELS: dict[str, dict[str, Any]] = {
    name: {**OTHERS[name], "trial_samples": None}
    for name in ("stories260k", "vit-cifar10", "efficientnet-lite0", "clip-cifar10", "smollm2-135m")
}
MODELS["stories260k"]["search_samples"] = None


def main() -> None:
    """Search on every model asked for."""
    args = arguments(__doc__).parse_args()
    record("trials.json", args.names or list(MODELS), args.root, _missing)


def _missing(name: str, rows: list[Row]) -> Iterator[Row]:
    first: Session | None = None
    for sparsity in SPARSITIES:
        if any(row["sparsity"] == sparsity for row in rows):
            continue
        settings = {**MODELS[name], "sparsity": sparsity, "baseline": False}
        recipe = Recipe.make(settings)
        first = first or Session(recipe, Source(recipe.source), progress=Lines())
        samples = first.calibration.samples
        step = first.again(recipe).beta_limit(first.chains) / STEPS.get(name, 16)
        ways = {
            "grid": {"trial_samples": samples, "beta_step": step},
            "all samples": {"trial_samples": samples},
            "default": {},
        }
        yield {"sparsity": sparsity, "samples": samples, **_searched(first, settings, ways)}


def _searched(
    first: Session, settings: dict[str, Any], ways: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # What is judged with all samples once is not judged again.
    journal = Journal(None, {})
    for way, options in ways.items():
        session = first.again(Recipe.make({**settings, **options}))
        pruning = Pruning(session, journal)
        made = pruning.search().trials
        beta = best(made, pruning._known().higher_is_better).beta
        assert beta is not None
        judged = pruning._judge(beta, "final")
        found[way] = {
            "beta": beta,
            "trials": len(made),
            "trial_samples": made[0].samples,
            "seconds": sum(trial.seconds for trial in made),
            "objective": judged.objective,
        }
        found.setdefault("metric", pruning._known().name)
        least = found["grid"]["objective"]
        found[way]["regret"] = judged.objective / least - 1.0  # all of them are losses
    return found


if __name__ == "__main__":
    main()
