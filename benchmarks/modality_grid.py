"""Sparsity × {uniform, ATP} on trained vision, CLIP and LLaVA models, with Wanda.

    python benchmarks/modality_grid.py [--root DIR] [MODEL …]

Each cell is what the `atp prune` command written beside it does; here a model is loaded once.
Cells that are in benchmarks/results/modality_grid.json already are kept, so an interrupted run
goes on. The digit models are trained on first use; the others are read below DIR, see
docs/results.md for what they are.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from _cifar10 import laid_out
from smollm2_grid import Lines

from atp_core._session import Session
from atp_core._workflow import Pruning
from atp_core.recipe import Recipe
from atp_core.records import Source
from atp_core.results import metrics_to_dict
from atp_core.trials.journal import Journal

OUTPUT = Path(__file__).resolve().parent / "results" / "modality_grid.json"
SPARSITIES = (0.4, 0.5, 0.6, 0.7, 0.8)

# Paths are relative to a folder that is laid out for the run; see _cifar10.py.
MODELS: dict[str, dict[str, Any]] = {
    "digits-vit": {"source": "embedded:digits-vit"},
    "vit-cifar10": {
        "source": "models/vit-cifar10",
        "calibration": "data/cifar10-jpeg/train",
        "report_data": "data/cifar10-jpeg/test",
    },
    "efficientnet-lite0": {
        "source": "embedded:efficientnet-lite0",
        "calibration": "data/imagenet-sample-1k",
        "report_data": "data/imagenet-sample-1k",
        "samples": 64,
        "search_samples": 100,
    },
    "digits-clip": {"source": "embedded:digits-clip"},
    "clip-cifar10": {
        "source": "models/clip-cifar10",
        "calibration": "data/cifar10-jpeg/train",
        "report_data": "data/cifar10-jpeg/test",
    },
    "digits-llava": {"source": "embedded:digits-llava"},
    "llava-cifar10": {
        "source": "models/llava-cifar10",
        "calibration": "questions-train.jsonl",
        "report_data": "questions-test.jsonl",
        "report_samples": 1500,
        "templates": "prompt.txt",
        "dtype": "float32",
    },
}


def main() -> None:
    """Fill the grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL")
    parser.add_argument("--root", type=Path, help="directory that holds models/ and data/")
    args = parser.parse_args()
    names = args.names or list(MODELS)
    for name in names:
        if name not in MODELS:
            parser.error(f"no model {name!r}; there are {', '.join(MODELS)}")
        if args.root is None and "embedded:digits" not in MODELS[name]["source"]:
            parser.error(f"{name} needs --root")
    found: dict[str, Any] = {}
    if OUTPUT.exists():
        found = json.loads(OUTPUT.read_text("utf-8"))
    with laid_out(args.root):
        for name in names:
            _fill(name, MODELS[name], found)


def _fill(name: str, settings: dict[str, Any], found: dict[str, Any]) -> None:
    model = found.setdefault(name, {"cells": {}})
    first: Session | None = None
    for sparsity in SPARSITIES:
        if f"{sparsity:g}" in model["cells"]:
            continue
        recipe = Recipe.make({**settings, "sparsity": sparsity, "output": "OUT"})
        first = first or Session(recipe, Source(recipe.source), progress=Lines())
        session = first.again(recipe)
        pruning = Pruning(session, Journal(None, {}))
        cell: dict[str, Any] = {"command": recipe.command()}
        started = time.perf_counter()
        cell["dense"] = metrics_to_dict(pruning.report_metrics("dense", None))
        result = pruning.search()
        for who, schedule in (("uniform", pruning.schedule(0.0)), ("pruned", result.schedule)):
            cell[who] = metrics_to_dict(pruning.report_metrics(who, schedule))
        cell.update(
            beta=result.beta,
            beta_limit=result.beta_limit,
            objective=result.objective,
            trials=[trial.to_dict() for trial in result.trials],
            chains={chain.name: len(chain.blocks) for chain in session.chains},
            seconds=time.perf_counter() - started,
        )
        model["cells"][f"{sparsity:g}"] = cell
        model["cells"] = dict(sorted(model["cells"].items()))
        ordered = {known: found[known] for known in MODELS if known in found}
        OUTPUT.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", "utf-8")
        values = {
            who: {key: round(metric["value"], 4) for key, metric in cell[who].items()}
            for who in ("dense", "uniform", "pruned")
        }
        print(name, sparsity, f"β = {cell['beta']:.4g}", values, flush=True)


if __name__ == "__main__":
    main()
