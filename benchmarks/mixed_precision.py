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

from atp_quant.api import Request, quantize

from atp_core.checkpoint import atomic_write_text

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
    for method, allocation, bits, sparsity in [*cells, *(JOINT if asked.joint else ())]:
        key = f"{method} {allocation} {bits:g} {sparsity:g}"
        if key in known:
            continue
        beta: Any = "search"
        if asked.search_with == "rtn" and method == "gptq":
            beta = known.get(f"rtn {allocation} {bits:g} 0", {}).get("beta", "search")
        started = time.perf_counter()
        result = quantize(
            asked.source,
            Request(
                bits=bits,
                method=method,
                allocation=allocation,
                beta=beta if allocation == "atp" else 0.0,
                group_size=asked.group_size,
                sparsity=sparsity,
                baseline=False,
            ),
            **data,
        )
        known[key] = {
            "beta": result.beta,
            "bits": result.bits,
            "stored_bits": result.stored_bits,
            "widths": [block.bits for block in result.blocks],
            "sparsity": result.sparsity,
            "trials": [[trial.beta, trial.objective] for trial in result.trials],
            **{
                who: {name: metric.value for name, metric in found.items()}
                for who, found in result.metrics.items()
            },
            "seconds": time.perf_counter() - started,
        }
        atomic_write_text(asked.output, json.dumps(known, indent=2) + "\n")
        print(key, known[key]["quantized"], f"{known[key]['seconds']:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
