"""Statistics on what pruned blocks hand on, against those of the dense model: quality and time.

    python benchmarks/inputs.py [--root DIR] [MODEL …]

Wanda with all calibration samples, uniform and with a β of 0.3 of its range, on the report split.
Seconds are of one pruning, the same in both rows but for where statistics come from.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from _cifar10 import laid_out
from beta_auto import MODELS as OTHERS
from smollm2_grid import Lines

from atp_core._session import Session
from atp_core._workflow import Pruning
from atp_core.recipe import Recipe
from atp_core.records import Source
from atp_core.trials.journal import Journal

OUTPUT = Path(__file__).resolve().parent / "results" / "inputs.json"
SPARSITIES = (0.5, 0.6, 0.7)
STEEP = 0.3
MODELS = (
    "stories260k", "vit-cifar10", "digits-vit", "digits-clip", "digits-llava", "clip-cifar10",
    "llava-cifar10", "smollm2-135m",
)  # fmt: skip


def main() -> None:
    """Prune every model asked for both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL")
    parser.add_argument("--root", type=Path, required=True, help="holds models/ and data/")
    args = parser.parse_args()
    with laid_out(args.root):
        for name in args.names or MODELS:
            rows = _rows(dict(OTHERS[name]))
            known = json.loads(OUTPUT.read_text("utf-8")) if OUTPUT.exists() else {}
            known[name] = rows
            ordered = {model: known[model] for model in MODELS if model in known}
            OUTPUT.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _rows(settings: dict[str, Any]) -> list[dict[str, Any]]:
    first: Session | None = None
    rows = []
    for sparsity in SPARSITIES:
        for inputs in ("pruned", "dense"):
            recipe = Recipe.make({**settings, "sparsity": sparsity, "inputs": inputs})
            first = first or Session(recipe, Source(recipe.source), progress=Lines())
            session = first.again(recipe)
            pruning = Pruning(session, Journal(None, {}))
            for allocation, share in (("uniform", 0.0), ("atp", STEEP)):
                beta = share * session.beta_limit(session.chains)
                schedule = pruning.schedule(beta)
                metrics = pruning.report_metrics(allocation, schedule)
                session.restore()
                session._dense.clear()
                started = time.perf_counter()
                session.prune(schedule, session.method(), "timed")
                seconds = time.perf_counter() - started
                metric = next(iter(metrics.values()))
                rows.append({
                    "sparsity": sparsity, "inputs": inputs, "allocation": allocation,
                    "beta": beta, "metric": metric.name, "value": metric.value,
                    "stderr": metric.stderr, "higher_is_better": metric.higher_is_better,
                    "seconds": seconds,
                })  # fmt: skip
                print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
