"""Bits per block: uniform against ATP's progression, round-to-nearest against GPTQ.

    python benchmarks/mixed_precision.py --root DIR [--bits B,B] [MODEL …]

Every cell starts from the dense model, and β is searched on the search split. Joint cells cut half
of the weights in the same pass, with the β of those without. What
benchmarks/results/mixed_precision.json has already is kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Literal, NamedTuple

from _recorded import Row, arguments, record
from beta_auto import MODELS as OTHERS
from smollm2_grid import Lines

from atp_core.recipe import Recipe
from atp_core.records import Source
from atp_core.session import Session
from atp_quant._bits import average
from atp_quant._run import Quantizing, check_groups
from atp_quant.api import Request

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
    parser = arguments(__doc__)
    parser.add_argument("--bits", default="4,3,2.5")
    args = parser.parse_args()
    cells = [
        Cell(method, allocation, float(bits))
        for bits in args.bits.split(",")
        for method in ("rtn", "gptq")
        for allocation in ("uniform", "atp")
    ]
    cells += [Cell("gptq", allocation, *JOINT) for allocation in ("uniform", "atp")]

    def missing(name: str, known: list[Row]) -> Iterator[Row]:
        recipe = Recipe.make({**OTHERS[name], "sparsity": 0.0})
        with Session(recipe, Source(recipe.source), progress=Lines()) as session:
            check_groups(session.chains, GROUP_SIZE)
            for cell in cells:
                if not any({**row, **cell._asdict()} == row for row in known):
                    yield _measured(session, cell, known)

    record("mixed_precision.json", args.names or MODELS, args.root, missing)


def _measured(session: Session, cell: Cell, known: list[Row]) -> Row:
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
    if cell.allocation == "atp" and not cell.sparsity:
        beta, trials = running.search()
    elif cell.allocation == "atp":
        alone = cell._replace(sparsity=0.0)._asdict()
        beta = next(row["beta"] for row in known if {**row, **alone} == row)
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
