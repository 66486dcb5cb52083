"""Methods side by side: Wanda, DSnoT, SparseGPT and ALPS, each uniform and with ATP.

    python benchmarks/masks.py [--root DIR] [MODEL …]

β is searched with the method itself, on the search split. On SmolLM2-135M, where a search with ALPS
takes hours, Wanda and SparseGPT are those of benchmarks/allocations.py, and DSnoT and ALPS take
their β. Figures are of the report split. Results go to benchmarks/results/masks.json; what is there
already is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from _recorded import Row, arguments, record
from allocations import OUTPUT as COMPARED
from beta_auto import MODELS as OTHERS
from smollm2_grid import Lines

import atp_core

METHODS = ("wanda", "dsnot", "sparsegpt", "alps")
SPARSITIES = (0.6, 0.7)
MODELS = ("digits-vit", "vit-cifar10", "stories260k", "smollm2-135m")
BORROWED = {
    "smollm2-135m": {
        "dsnot": ("smollm2-135m", "wanda"),
        "alps": ("smollm2-135m, SparseGPT", "sparsegpt"),
    }
}
"""Model → methods that are measured on it → of which comparison and method their β is."""


def main() -> None:
    """Prune every model asked for by every method."""
    args = arguments(__doc__).parse_args()
    record("masks.json", args.names or MODELS, args.root, _missing)


def _missing(name: str, known: list[Row]) -> Iterator[Row]:
    done = {(row["method"], row["sparsity"]) for row in known}
    for sparsity in SPARSITIES:
        for method in BORROWED.get(name, METHODS):
            if (method, sparsity) in done:
                continue
            settings = dict(OTHERS[name])
            borrowed = _borrowed(name, method, sparsity)
            if borrowed is not None:
                settings["beta"] = borrowed
            result = atp_core.prune(
                settings.pop("source"),
                **settings,
                sparsity=sparsity,
                method=method,
                progress=Lines(),
            )
            metric = next(iter(result.metrics["dense"]))
            yield {
                "sparsity": sparsity,
                "method": method,
                "beta": result.beta,
                "searched": borrowed is None,
                "metric": metric,
                **{
                    who: [found[metric].value, found[metric].stderr]
                    for who, found in result.metrics.items()
                },
                "seconds": result.seconds,
                "notes": list(result.notes),
            }


def _borrowed(name: str, method: str, sparsity: float) -> float | None:
    if name not in BORROWED:
        return None
    model, other = BORROWED[name][method]
    for cell in json.loads(COMPARED.read_text("utf-8"))[model]["cells"]:
        if (cell["method"], cell["sparsity"], cell["allocation"]) == (other, sparsity, "atp"):
            return float(cell["beta"])
    raise SystemExit(f"{COMPARED.name} has no β of {other} on {model} at {sparsity:g} yet")


if __name__ == "__main__":
    main()
