"""Whole models on the sparse runtime of the CPU against torch, in pairs, by `atp_core.bench`.

    python benchmarks/sparse_models.py [--threads 1] [--rounds 11] [MODEL …]

Weights are random, but for SmolLM2's, and pruned by magnitude to one rate everywhere: speed depends
on shapes, types and zeros only. Results are added to benchmarks/results/sparse_models.json, a row a
workload; those of the same model, type, sparsity and number of threads are replaced.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from run import machine
from smollm2_grid import Lines

import atp_core
from atp_core._session import Session
from atp_core.allocation.uniform import Uniform
from atp_core.recipe import Recipe
from atp_core.records import Source

OUTPUT = Path(__file__).resolve().parent / "results" / "sparse_models.json"


def llama() -> Any:
    """A Llama of 1.1 billion parameters, in the shape of TinyLlama."""
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        vocab_size=32000,
        max_position_embeddings=2048,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return transformers.LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def vit() -> Any:
    """ViT-B/16 of timm."""
    import timm

    return timm.create_model("vit_base_patch16_224")


def clip() -> Any:
    """CLIP ViT-B/32 of open_clip."""
    import open_clip

    return open_clip.create_model("ViT-B-32")


MODELS: dict[str, tuple[Callable[[], Any] | str, dict[str, Any]]] = {
    "llama-1.1b": (llama, {"dtypes": ["bfloat16"], "batch_sizes": (1, 4)}),
    "smollm2-135m": ("embedded:smollm2-135m", {"batch_sizes": (1, 4)}),
    "vit-b16": (vit, {"batch_sizes": (1, 16)}),
    "clip-vit-b32": (clip, {"batch_sizes": (1, 16)}),
}
DTYPES = ("bfloat16", "float32")


def main() -> None:
    """Time every model asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sparsities", default="0.5,0.7")
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.names or MODELS:
        made, settings = MODELS[name]
        for dtype in settings.get("dtypes", DTYPES):
            for sparsity in map(float, args.sparsities.split(",")):
                key = {"model": name, "dtype": dtype, "threads": args.threads, "sparsity": sparsity}
                _keep(key, _rows(made, dtype, sparsity, settings["batch_sizes"], args))


def _rows(
    made: Callable[[], Any] | str, dtype: str, sparsity: float, batch_sizes: Any, args: Any
) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    source = Source(made) if isinstance(made, str) else Source("memory", model=made())
    recipe = Recipe(source=source.text, sparsity=sparsity, method="magnitude", dtype=dtype)
    session = Session(recipe, source, progress=Lines())
    schedule = session.allocate(Uniform(), session.chains)
    session.prune(schedule, session.method(), "pruning")
    result = atp_core.bench(
        session.loaded.model,
        runtime="sparse-cpu",
        processor=session.loaded.processor,
        batch_sizes=batch_sizes,
        rounds=args.rounds,
        threads=args.threads,
    )
    told = result.to_json()
    about = {
        "memory_ratio": told["sparse_bytes"] / told["dense_bytes"],
        "sparse_layers": told["acceleration"]["sparse_layers"],
        "layers": len(told["acceleration"]["layers"]),
        "machine": machine(),
        "load": os.getloadavg()[0],
    }
    return [about | row for row in told["workloads"]]


def _keep(key: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    known = json.loads(OUTPUT.read_text("utf-8")) if OUTPUT.exists() else []
    found = [row for row in known if any(row[name] != value for name, value in key.items())]
    for row in rows:
        row.pop("dense_seconds", None), row.pop("sparse_seconds", None)
        found.append(key | row)
        print(json.dumps(found[-1]), flush=True)
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
