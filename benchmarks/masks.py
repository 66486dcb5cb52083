"""Methods side by side: Wanda, DSnoT, SparseGPT and ALPS, uniform and with one β of ATP.

    python benchmarks/masks.py [--root DIR] [MODEL …]

β is 0.3 of its range, the same for every method and not searched: what is compared is the method,
and whether a rising schedule helps it. Report split, with all calibration samples; seconds are of
the pruning on one busy core. Results go to benchmarks/results/masks.json.
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

OUTPUT = Path(__file__).resolve().parent / "results" / "masks.json"
METHODS = ("wanda", "dsnot", "sparsegpt", "alps")
SPARSITIES = (0.6, 0.7)
STEEP = 0.3
MODELS = ("digits-vit", "vit-cifar10", "stories260k", "smollm2-135m")


def main() -> None:
    """Prune every model asked for by every method; what is recorded already is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL")
    parser.add_argument("--root", type=Path, required=True, help="holds models/ and data/")
    args = parser.parse_args()
    found = json.loads(OUTPUT.read_text("utf-8")) if OUTPUT.exists() else {}
    with laid_out(args.root):
        for name in args.names or MODELS:
            rows = found.setdefault(name, [])
            for row in _missing(dict(OTHERS[name]), rows):
                rows.append(row)
                print(json.dumps(row), flush=True)
                OUTPUT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _missing(settings: dict[str, Any], known: list[dict[str, Any]]) -> Any:
    done = {(row["method"], row["sparsity"], row["allocation"]) for row in known}
    first: Session | None = None
    for sparsity in SPARSITIES:
        for method in METHODS:
            for allocation, share in (("uniform", 0.0), ("atp", STEEP)):
                if (method, sparsity, allocation) in done:
                    continue
                recipe = Recipe.make({**settings, "sparsity": sparsity, "method": method})
                first = first or Session(recipe, Source(recipe.source), progress=Lines())
                session = first.again(recipe)
                pruning = Pruning(session, Journal(None, {}))
                beta = share * session.beta_limit(session.chains)
                began = time.process_time()
                session.prune(pruning.schedule(beta), session.method(), f"{method} {allocation}")
                seconds = time.process_time() - began
                metric = session.evaluate("report").metric()
                yield {
                    "sparsity": sparsity,
                    "method": method,
                    "allocation": allocation,
                    "beta": beta,
                    "metric": metric.name,
                    "value": metric.value,
                    "stderr": metric.stderr,
                    "seconds": seconds,
                }


if __name__ == "__main__":
    main()
