"""Bits per block: uniform against ATP's progression, round-to-nearest against GPTQ.

    python benchmarks/mixed_precision.py SOURCE --calibration FILE --report-data FILE -o OUT.json

Every cell starts from the dense model. β is searched on the search split, with the cell's own
solver or, where that takes long, with round-to-nearest (`--search-with rtn`), whose β GPTQ then
takes. Joint cells cut half of the weights in the same pass. Cells that are in OUT.json already are
not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from atp_core.checkpoint import atomic_write_text
from atp_core.recipe import Recipe
from atp_core.records import Metric, Source
from atp_core.session import Session
from atp_quant._bits import average
from atp_quant._run import Quantizing, check_groups
from atp_quant.api import Request

JOINT = (("gptq", "uniform", 4.0, 0.5), ("gptq", "atp", 4.0, 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--calibration")
    parser.add_argument("--report-data")
    parser.add_argument("--seqlen", type=int)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--search-samples", type=int, default=16)
    parser.add_argument("--report-samples", type=int, default=40)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--bits", default="4,3,2.5")
    parser.add_argument("--search-with", choices=["own", "rtn"], default="own")
    parser.add_argument("--joint", action="store_true")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args()
    names = (
        "calibration", "report_data", "seqlen", "samples", "search_samples", "report_samples",
        "dtype",
    )
    data = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
    cells = [
        (method, allocation, float(bits), 0.0)
        for bits in asked.bits.split(",")
        for method in ("rtn", "gptq")
        for allocation in ("uniform", "atp")
    ]
    known: dict[str, Any] = {}
    if asked.output.exists():
        known = json.loads(asked.output.read_text(encoding="utf-8"))
    recipe = Recipe.make({"source": asked.source, "sparsity": 0.0, **data})
    with Session(recipe, Source(asked.source)) as session:
        check_groups(session.chains, asked.group_size)
        # One model, one calibration, one measurement of the dense model for all cells.
        dense: dict[str, float] = {}
        for method, allocation, bits, sparsity in [*cells, *(JOINT if asked.joint else ())]:
            key = f"{method} {allocation} {bits:g} {sparsity:g}"
            if key in known:
                continue
            request = Request(
                bits=bits,
                method=method,
                allocation=allocation,
                group_size=asked.group_size,
                sparsity=sparsity,
            )
            running = Quantizing(session, request)
            dense = dense or values(running.measured(None))
            started = time.perf_counter()
            beta, trials = 0.0, []
            if allocation == "atp":
                earlier = known.get(f"rtn atp {bits:g} 0")
                if asked.search_with == "rtn" and method == "gptq" and earlier is not None:
                    beta = earlier["beta"]
                else:
                    beta, trials = running.search()
            widths = running.bits(beta)
            found = values(running.measured(widths))
            blocks = running.blocks(widths)
            sizes = [block.parameters for block in blocks]
            known[key] = {
                "beta": beta,
                "bits": average(sizes, [block.bits for block in blocks]),
                "widths": [block.bits for block in blocks],
                "zeros": sum(block.zeros for block in blocks) / sum(sizes),
                "trials": [[trial.beta, trial.objective] for trial in trials],
                "dense": dense,
                "quantized": found,
                "seconds": time.perf_counter() - started,
            }
            atomic_write_text(asked.output, json.dumps(known, indent=2) + "\n")
            print(key, beta, found, f"{known[key]['seconds']:.0f} s", file=sys.stderr, flush=True)


def values(metrics: dict[str, Metric]) -> dict[str, float]:
    return {name: metric.value for name, metric in metrics.items()}


if __name__ == "__main__":
    main()
