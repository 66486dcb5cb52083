"""Bits per block: uniform against ATP's progression, round-to-nearest against GPTQ.

    python benchmarks/mixed_precision.py --root DIR [--bits B,B] [MODEL …]

Every cell starts from the dense model. β is searched on the search split with round-to-nearest,
whose β GPTQ takes too. Joint cells cut half of the weights in the same pass. What
benchmarks/results/mixed_precision.json has already is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from _cifar10 import laid_out
from beta_auto import MODELS as OTHERS
from smollm2_grid import Lines

from atp_core.recipe import Recipe
from atp_core.records import Source
from atp_core.session import Session
from atp_quant._bits import average
from atp_quant._run import Quantizing, check_groups
from atp_quant.api import Request

OUTPUT = Path(__file__).resolve().parent / "results" / "mixed_precision.json"
MODELS = ("digits-vit", "vit-cifar10", "smollm2-135m")
GROUP_SIZE = 64
JOINT = (4.0, 0.5)
"""Average bits and sparsity of the cells that do both."""


class Cell(NamedTuple):
    """What is measured."""

    method: Literal["rtn", "gptq"]
    allocation: str
    bits: float
    sparsity: float = 0.0


def main() -> None:
    """Fill every cell of every model asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL")
    parser.add_argument("--root", type=Path, required=True, help="holds models/ and data/")
    parser.add_argument("--bits", default="4,3,2.5")
    args = parser.parse_args()
    cells = [
        Cell(method, allocation, float(bits))
        for bits in args.bits.split(",")
        for method in ("rtn", "gptq")
        for allocation in ("uniform", "atp")
    ]
    cells += [Cell("gptq", allocation, *JOINT) for allocation in ("uniform", "atp")]
    found = json.loads(OUTPUT.read_text("utf-8")) if OUTPUT.exists() else {}
    with laid_out(args.root):
        for name in args.names or MODELS:
            rows = found.setdefault(name, [])
            for row in _missing(dict(OTHERS[name]), cells, rows):
                rows.append(row)
                print(name, json.dumps(row), flush=True)
                OUTPUT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _missing(
    settings: dict[str, Any], cells: list[Cell], known: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    recipe = Recipe.make({**settings, "sparsity": 0.0})
    with Session(recipe, Source(recipe.source), progress=Lines()) as session:
        check_groups(session.chains, GROUP_SIZE)
        for cell in cells:
            if not any({**row, **cell._asdict()} == row for row in known):
                yield _measured(session, cell, known)


def _measured(session: Session, cell: Cell, known: list[dict[str, Any]]) -> dict[str, Any]:
    request = Request(
        bits=cell.bits,
        method=cell.method,
        allocation=cell.allocation,
        group_size=GROUP_SIZE,
        sparsity=cell.sparsity,
    )
    running = Quantizing(session, request)
    dense = next(iter(running.measured(None).values()))
    started = time.perf_counter()
    beta, trials = 0.0, []
    if cell.allocation == "atp" and cell.method == "rtn":
        beta, trials = running.search()
    elif cell.allocation == "atp":
        beta = next(
            row["beta"]
            for row in known
            if {**row, **Cell("rtn", "atp", cell.bits)._asdict()} == row
        )
    widths = running.bits(beta)
    metric = next(iter(running.measured(widths).values()))
    blocks = running.blocks(widths)
    sizes = [block.parameters for block in blocks]
    return {
        **cell._asdict(),
        "beta": beta,
        "average": average(sizes, [block.bits for block in blocks]),
        "widths": [block.bits for block in blocks],
        "zeros": sum(block.zeros for block in blocks) / sum(sizes),
        "trials": [[trial.beta, trial.objective] for trial in trials],
        "metric": metric.name,
        "dense": dense.value,
        "value": metric.value,
        "stderr": metric.stderr,
        "seconds": time.perf_counter() - started,
    }


if __name__ == "__main__":
    main()
