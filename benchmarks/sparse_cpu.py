"""Speed of packed linear layers (atp-sparse-cpu) against the dense ones of torch.

For each shape, type, sparsity, number of tokens and number of threads, the dense layer and every
way on packed weights are timed in turn in one process; "chosen" is the one that `accelerate` takes.
Weights are rotated through copies of more than 600 MB of dense weights, so that caches do not hide
their traffic. Ratios are medians of those paired by round. A dense product by our own kernel (a
weight packed without zeros) tells how much of a gain is the zeros' and how much the kernel's:

    python benchmarks/sparse_cpu.py [--shapes 4096x4096,…] [--dtypes bfloat16,float32]
        [--sparsities 0.5,0.6,0.7,0.8] [--tokens 1,4,16,64,256] [--threads 1,2] [--int8]
        [--seconds 0.5] [--record amx] [-o results/sparse_cpu.json]

`--record NAME` keeps a second machine's figures beside the first one's, in
results/sparse_cpu_NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from run import machine
from torch import Tensor

from atp_sparse_cpu import runtime_info
from atp_sparse_cpu._compute import compute
from atp_sparse_cpu._packed import Packed, pack
from atp_sparse_cpu._plan import BUCKETS, bucket_of, ways_for
from atp_sparse_cpu._plan import Path as Way
from atp_sparse_cpu._tune import choose, measure

RESULTS = Path(__file__).parent / "results" / "sparse_cpu.json"
SHAPES = "4096x4096,11008x4096,4096x11008,576x1536,768x3072,1536x576"
COLD = 600 << 20  # bytes


def main() -> None:
    """Time the grid, row by row, and keep each as it comes."""
    asked = _arguments()
    rows: list[dict[str, Any]] = []
    about = {"machine": machine(), "runtime": dict(runtime_info()), "load": os.getloadavg()}
    for threads in _numbers(asked.threads, int):
        torch.set_num_threads(threads)
        for shape in asked.shapes.split(","):
            outputs, inputs = _numbers(shape.replace("x", ","), int)
            for dtype in asked.dtypes.split(","):
                for sparsity in _numbers(asked.sparsities, float):
                    case = (outputs, inputs, sparsity, getattr(torch, dtype))
                    for row in _case(*case, asked):
                        rows.append({"threads": threads, "shape": shape, "dtype": dtype} | row)
                        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                    asked.output.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    print(_table(rows))


def _case(
    outputs: int, inputs: int, sparsity: float, dtype: torch.dtype, asked: Any
) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs) * 0.02
    full = weight.to(dtype, copy=True)
    weight[torch.rand(outputs, inputs) < sparsity] = 0
    weight = weight.to(dtype)
    dense = _copies(weight, Tensor.clone, weight.nbytes)
    packs: dict[str, list[Packed]] = {"": _packed(weight, False), "full": _packed(full, False)}
    if asked.int8:
        packs["int8"] = _packed(weight, True)
    choice = choose(measure(weight, packs[""][0], model_bytes=COLD), keep_dense=True)
    rows = []
    for tokens in _numbers(asked.tokens, int):
        x = torch.randn(tokens, inputs).to(dtype)
        runs: dict[str, Callable[[int], object]] = {
            "dense": lambda turn, x=x: F.linear(x, dense[turn % len(dense)])
        }
        for name, copies in packs.items():
            stored = copies[0].values.dtype
            structs = [each.struct() for each in copies]
            ways = ways_for(stored, tokens)
            for way in ways[:1] if name == "full" else ways:
                label = f"{name}_{way.name}".strip("_").lower()
                runs[label] = _run(x, structs, stored, way)
        seconds = _race(runs, asked.seconds)
        ratios = {
            name: statistics.median(a / b for a, b in zip(seconds["dense"], found, strict=True))
            for name, found in seconds.items()
        }
        plan = choice.plan
        chosen = Way(plan[bucket_of(tokens)]).name.lower() if plan else "dense"
        rows.append(
            {
                "sparsity": sparsity,
                "tokens": tokens,
                "dense_ms": statistics.median(seconds["dense"]) * 1e3,
                "bytes": packs[""][0].bytes / weight.nbytes,
                "chosen": chosen,
                "speedup": ratios[chosen],
                "ratios": {name: ratio for name, ratio in ratios.items() if name != "dense"},
                "rounds": len(seconds["dense"]),
            }
        )
    return rows


def _packed(weight: Tensor, int8: bool) -> list[Packed]:
    one = pack(weight, int8=int8)
    # Bytes of the dense model, at least: a packed model that fits the cache has earned it.
    return _copies(one, lambda _: pack(weight, int8=int8), weight.nbytes)


def _copies(one: Any, copy: Callable[[Any], Any], size: int) -> list[Any]:
    return [one] + [copy(one) for _ in range(COLD // size)]


def _run(x: Tensor, structs: list[Any], stored: torch.dtype, way: Way) -> Callable[[int], object]:
    plan = (int(way),) * len(BUCKETS)
    return lambda turn: compute(x, structs[turn % len(structs)], stored, None, None, plan)


@torch.inference_mode()
def _race(runs: dict[str, Callable[[int], object]], budget: float) -> dict[str, list[float]]:
    """Seconds of every run in every round; at least 5 rounds, more while the budget lasts."""
    # With one thread its own clock leaves out what other programs take.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    for run in runs.values():
        run(0)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    began, turn = time.perf_counter(), 0
    while turn < 5 or (time.perf_counter() - began < budget and turn < 200):
        turn += 1
        for name, run in runs.items():
            start = clock()
            run(turn)
            seconds[name].append(max(clock() - start, 1e-9))
    return seconds


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| threads | type | W | s | tokens | dense ms | chosen | speed-up | own kernel, no zeros |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own = next(ratio for name, ratio in row["ratios"].items() if name.startswith("full_"))
        lines.append(
            f"| {row['threads']} | {row['dtype']} | {row['shape']} | {row['sparsity']:g} | "
            f"{row['tokens']} | {row['dense_ms']:.3f} | {row['chosen']} | {row['speedup']:.2f} | "
            f"{own:.2f} |"
        )
    return "\n".join(lines)


def _numbers(text: str, kind: type) -> list[Any]:
    return [kind(part) for part in text.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--sparsities", default="0.5,0.6,0.7,0.8")
    parser.add_argument("--tokens", default="1,4,16,64,256")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--int8", action="store_true", help="values in 8 bits too")
    parser.add_argument("--seconds", type=float, default=0.5, help="for one row, about")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--record", metavar="NAME", help="write results/sparse_cpu_NAME.json")
    target.add_argument("-o", "--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.record:
        asked.output = RESULTS.with_name(f"{RESULTS.stem}_{asked.record}.json")
    return asked


if __name__ == "__main__":
    main()
