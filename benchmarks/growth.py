"""How pruning time grows with blocks, samples and width, against two plain forward passes.

    python benchmarks/growth.py [blocks samples width]

Random Llamas, one of their sizes varied at a time; Wanda and SparseGPT, float32, one thread. CPU
seconds are counted, so that other programs matter little. Pruning and two forwards of the same
calibration samples alternate, and medians of paired ratios are taken: growth as two forwards grow
is the best that calibrating and propagating block by block can do. Exponents are slopes of log
seconds against log size. Results go to benchmarks/results/growth.json, from which docs/draw.py
makes a figure.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from run import machine

from atp_core._session import Session
from atp_core.engine.pruning import PruneOptions, prune_model
from atp_core.methods.sparsegpt import SparseGPT
from atp_core.methods.wanda import Wanda
from atp_core.recipe import Recipe
from atp_core.records import Calibration, Schedule, Source

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = {"blocks": (2, 4, 8, 16), "samples": (4, 8, 16, 32), "width": (256, 512, 1024)}
PLAIN = {"blocks": 4, "samples": 8, "width": 512}
SEQLEN = 256
ROUNDS = 3
METHODS = (Wanda, SparseGPT)


def main() -> None:
    """Vary what is asked for, and keep the rest."""
    file = RESULTS / "growth.json"
    known = json.loads(file.read_text("utf-8")) if file.exists() else {"axes": {}}
    for axis in sys.argv[1:] or SIZES:
        rows = [_row(axis, size) for size in SIZES[axis]]
        known["axes"][axis] = {"rows": rows, "exponents": _exponents(rows)}
        known["machine"] = machine()
        known["plain"] = {**PLAIN, "seqlen": SEQLEN}
        file.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        print(axis, json.dumps(known["axes"][axis]["exponents"]), flush=True)


def _row(axis: str, size: int) -> dict[str, Any]:
    setup = {**PLAIN, axis: size}
    session = _session(setup)
    calibration = _calibration(session.loaded.model, setup["samples"])
    rates = {block.name: 0.6 for chain in session.chains for block in chain.blocks}
    schedule = Schedule({session.chains[0].name: rates}, 0.6, "uniform")
    seconds: dict[str, list[float]] = {"forwards": [], **{m.name: [] for m in METHODS}}
    session.snapshot  # noqa: B018  copied before the clock runs
    for _ in range(ROUNDS):
        began = time.process_time()
        with torch.inference_mode():
            for batch in [*calibration.batches, *calibration.batches]:
                session.loaded.model.model(batch)
        seconds["forwards"].append(time.process_time() - began)
        for method in METHODS:
            began = time.process_time()
            prune_model(
                session.loaded, session.chains, schedule, method(), calibration, PruneOptions()
            )
            seconds[method.name].append(time.process_time() - began)
            session.restore()
    ratios = {
        method.name: statistics.median(
            a / b for a, b in zip(seconds[method.name], seconds["forwards"], strict=True)
        )
        for method in METHODS
    }
    row = {
        "size": size,
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "ratios": ratios,
    }
    print(axis, json.dumps(row), flush=True)
    return row


def _session(setup: dict[str, int]) -> Any:
    import transformers

    torch.manual_seed(0)
    width = setup["width"]
    config = transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=setup["blocks"],
        num_attention_heads=width // 64,
        vocab_size=512,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    return Session(Recipe(source="memory", sparsity=0.6), Source("memory", model=model))


def _calibration(model: Any, samples: int) -> Calibration:
    ids = torch.randint(512, (samples, SEQLEN), generator=torch.Generator().manual_seed(0))
    batches = ids.split(4)
    return Calibration(
        batches=batches,
        forward=model.model,
        samples=samples,
        unit=f"sequences of {SEQLEN} tokens",
        dataset="random tokens",
        fingerprint="0",
        examples=frozenset(),
        batch_samples=[len(batch) for batch in batches],
    )


def _exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Slope of log seconds over log size, by least squares."""
    logs = [math.log(row["size"]) for row in rows]
    middle = statistics.mean(logs)
    found = {}
    for name in rows[0]["seconds"]:
        times = [math.log(row["seconds"][name]) for row in rows]
        found[name] = sum(
            (x - middle) * y for x, y in zip(logs, times, strict=True)
        ) / sum((x - middle) ** 2 for x in logs)
    return found


if __name__ == "__main__":
    main()
