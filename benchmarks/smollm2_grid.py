"""Sparsity × method × {uniform, ATP} on SmolLM2-135M: calibrated on C4, reported on WikiText-2.

    python benchmarks/smollm2_grid.py --calibration c4.utf8 --report-data wiki.test.raw -o grid.json

Each cell is what the `atp prune` command written beside it does; here the model is loaded once.
Cells that are in the output file already are kept, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

from atp_core._session import Session
from atp_core._workflow import Pruning
from atp_core.recipe import Recipe
from atp_core.records import Source
from atp_core.results import metrics_to_dict
from atp_core.trials.journal import Journal


class Lines:
    """Progress as plain lines."""

    def task(self, title: str, total: int) -> Any:
        """A step, shown when it ends."""
        from contextlib import contextmanager

        @contextmanager
        def step() -> Any:
            started = time.perf_counter()
            yield lambda at: None
            print(f"  {title}: {time.perf_counter() - started:.1f} s", flush=True)

        return step()

    def note(self, text: str) -> None:
        """A line."""
        print(text, flush=True)


def main() -> None:
    """Fill the grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="embedded:smollm2-135m")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--report-data", required=True)
    parser.add_argument("--sparsities", default="0.5,0.6,0.7")
    parser.add_argument("--methods", default="wanda,sparsegpt,magnitude")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--trial-samples", type=int, default=8)
    parser.add_argument("--search-samples", type=int, default=8)
    parser.add_argument("--report-samples", type=int, default=40)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--auto", action="store_true", help="also measure --beta auto")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()

    found: dict[str, Any] = {"cells": {}}
    if args.output.exists():
        found = json.loads(args.output.read_text())
    found["machine"] = f"{platform.machine()}, {platform.system()}"

    def keep() -> None:
        args.output.write_text(json.dumps(found, indent=1) + "\n")

    first: Session | None = None
    for sparsity in map(float, args.sparsities.split(",")):
        for method in args.methods.split(","):
            key = f"{method} {sparsity:g}"
            recipe = Recipe.make(
                {
                    "source": args.source,
                    "sparsity": sparsity,
                    "method": method,
                    "calibration": args.calibration,
                    "report_data": args.report_data,
                    "samples": args.samples,
                    "trial_samples": args.trial_samples,
                    "search_samples": args.search_samples,
                    "report_samples": args.report_samples,
                    "seqlen": args.seqlen,
                    "output": "OUT",
                }
            )
            if first is None:
                first = Session(recipe, Source(args.source), progress=Lines())
            cell = found["cells"].setdefault(key, {})
            if "pruned" not in cell:
                session = first.again(recipe)
                pruning = Pruning(session, Journal(None, {}))
                if "dense" not in found:
                    found["dense"] = metrics_to_dict(pruning.report_metrics("dense", None))
                    keep()
                started = time.perf_counter()

                def confirmed(beta: float, pruning: Any = pruning, cell: Any = cell) -> None:
                    who = "pruned" if beta else "uniform"
                    metrics = pruning.report_metrics(who, pruning.schedule(beta))
                    cell[who] = metrics_to_dict(metrics)
                    keep()

                result = pruning.search(confirmed)
                cell.update(
                    command=recipe.portable().command(),
                    beta=result.beta,
                    beta_limit=result.beta_limit,
                    trials=[trial.to_dict() for trial in result.trials],
                    seconds=time.perf_counter() - started,
                )
                cell.setdefault("pruned", cell["uniform"])
                keep()
            if args.auto and method != "magnitude" and "auto" not in cell:
                auto = recipe.model_copy(update={"beta": "auto", "baseline": False})
                pruning = Pruning(first.again(auto), Journal(None, {}))
                cell["auto"] = pruning.measure()
                keep()
            values = {w: cell[w]["perplexity"]["value"] for w in ("uniform", "pruned")}
            print(key, f"beta {cell['beta']:.4g}", values, flush=True)


if __name__ == "__main__":
    main()
