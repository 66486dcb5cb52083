"""N:M patterns, fixed and mixed, on a language model and on vision models.

    python benchmarks/patterns.py --root DIR [MODEL …]

2:4 by magnitude, Wanda and SparseGPT, and M = 8 at the averages 4:8, 3:8 and 2:8 by Wanda, uniform
and with a searched β. Figures are of the report split. What benchmarks/results/patterns.json has
already is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from _recorded import Row, arguments, record
from beta_auto import MODELS as OTHERS
from smollm2_grid import Lines

import atp_core
from atp_core.pattern import Pattern

MODELS = ("digits-vit", "vit-cifar10", "smollm2-135m")
CELLS: list[dict[str, Any]] = [
    {"pattern": "2:4", "method": "magnitude"},
    {"pattern": "2:4", "method": "wanda"},
    {"pattern": "2:4", "method": "sparsegpt"},
    *(
        {"pattern": "mixed:8", "sparsity": sparsity, "allocation": allocation, "method": "wanda"}
        for sparsity in (0.5, 0.625, 0.75)
        for allocation in ("uniform", "atp")
    ),
]


def main() -> None:
    """Fill every cell of every model asked for."""
    args = arguments(__doc__).parse_args()
    record("patterns.json", args.names or MODELS, args.root, _missing)


def _missing(name: str, known: list[Row]) -> Iterator[Row]:
    for cell in CELLS:
        if not any({**row, **cell} == row for row in known):
            yield _measured(dict(OTHERS[name]), cell)


def _measured(settings: dict[str, Any], cell: dict[str, Any]) -> Row:
    source = settings.pop("source")
    result = atp_core.prune(source, baseline=False, progress=Lines(), **settings, **cell)
    pattern = Pattern.parse(cell["pattern"])
    metrics = {who: next(iter(of.values())) for who, of in result.metrics.items()}
    return {
        **cell,
        "achieved": result.sparsity,
        "beta": result.beta,
        "kept": [pattern.kept(rate) for _, _, rate in result.schedule],
        "metric": metrics["pruned"].name,
        "dense": metrics["dense"].value,
        "value": metrics["pruned"].value,
        "stderr": metrics["pruned"].stderr,
        "trials": len(result.search.trials),
        "seconds": result.seconds,
    }


if __name__ == "__main__":
    main()
