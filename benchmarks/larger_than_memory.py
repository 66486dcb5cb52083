"""Pruning a model that is larger than the memory it may use, with the peak the system measured.

    python benchmarks/larger_than_memory.py FOLDER --tokenizer DIR [--layers 32] [--max-memory 8GB]

Writes a LLaMA-7B-shaped checkpoint with random weights in bfloat16 into FOLDER, block by block,
prunes it with `atp prune --max-memory` in a process of its own, checks what was written, and
records peak and time beside what `--dry-run` predicted. FOLDER needs twice the checkpoint's size,
27 GB at 32 layers; what is written there is removed at the end unless --keep. Random weights say
nothing about quality; the shapes are what memory and time depend on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

OUTPUT = Path(__file__).resolve().parent / "results" / "larger_than_memory.json"


def main() -> None:
    """Write, plan, prune, check, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seqlen", type=int, default=128)
    parser.add_argument("--method", default="wanda")
    parser.add_argument("--beta", type=float, default=0.005)
    parser.add_argument("--max-memory", default="8GB")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    source, output = args.folder / "llama", args.folder / "pruned"
    if not (source / "config.json").is_file():
        write_checkpoint(source, args.layers, args.tokenizer)
    command = [
        *(sys.executable, "-m", "atp_core", "prune", str(source), "--sparsity", "0.6"),
        *("--method", args.method, "--beta", str(args.beta), "--no-baseline"),
        *("--samples", str(args.samples), "--seqlen", str(args.seqlen)),
        *("--report-samples", str(args.samples), "--max-memory", args.max_memory, "--json"),
    ]
    plan, _, planning = run([*command, "--dry-run"])
    result, peak, seconds = run([*command, "-o", str(output), "--overwrite"])
    size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    entry = {
        "layers": args.layers,
        "checkpoint_bytes": size,
        "method": args.method,
        "samples": args.samples,
        "seqlen": args.seqlen,
        "max_memory": args.max_memory,
        "planned_bytes": plan["memory_bytes"],
        "planned_parts": plan["memory_parts"],
        "planned_seconds": plan["seconds"],
        "planning_seconds": planning,
        "peak_bytes": peak,
        "seconds": seconds,
        "sparsity_achieved": result["sparsity_achieved"],
        "sparsity_on_disk": check(source, output, updates=args.method == "sparsegpt"),
        "perplexity": {who: m["perplexity"]["value"] for who, m in result["metrics"].items()},
        "threads": torch.get_num_threads(),
        "cpu": processor(),
        "memory_bytes": psutil.virtual_memory().total,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    found = json.loads(OUTPUT.read_text("utf-8")) if OUTPUT.exists() else {}
    found[f"llama {args.layers} layers, {args.method}, {args.samples} x {args.seqlen}"] = entry
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(entry, indent=1))
    shutil.rmtree(output)
    if not args.keep:
        shutil.rmtree(source)


def write_checkpoint(directory: Path, layers: int, tokenizer: Path) -> None:
    """A LLaMA-7B of so many layers, a file a block, in bfloat16."""
    config = transformers.LlamaConfig(num_hidden_layers=layers, dtype="bfloat16")
    with torch.device("meta"):
        model: Any = transformers.LlamaForCausalLM(config)
    config.architectures = ["LlamaForCausalLM"]
    work = directory.with_name(directory.name + "-writing")
    work.mkdir(parents=True, exist_ok=True)
    groups: dict[str, dict[str, torch.Size]] = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        group = parts[2] if parts[1] == "layers" else parts[-2]
        groups.setdefault(group, {})[name] = value.shape
    generator = torch.Generator().manual_seed(0)
    table, total = {}, 0
    for number, shapes in enumerate(groups.values(), 1):
        tensors = {}
        for name, shape in shapes.items():
            value = torch.ones(shape) if len(shape) == 1 else torch.empty(shape)
            if len(shape) > 1:
                value.normal_(0, 0.02, generator=generator)
            tensors[name] = value.to(torch.bfloat16)
        file = work / f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file(tensors, file, {"format": "pt"})
        table.update(dict.fromkeys(tensors, file.name))
        total += sum(one.nbytes for one in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": table}
    (work / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config.save_pretrained(work)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, work / name)
    work.rename(directory)


def run(command: list[str]) -> tuple[dict[str, Any], int, float]:
    """What a command printed as JSON, its peak resident size in bytes, and its wall time."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return json.loads(text), usage.ru_maxrss * 1024, time.perf_counter() - started


def check(source: Path, output: Path, *, updates: bool) -> float:
    """The share of zeros in the blocks' matrices as they were written.

    Nothing may be missing, and every weight that is not zero must be the one of the source, unless
    the method updates those.
    """
    old, new = (
        json.loads((one / "model.safetensors.index.json").read_text("utf-8"))["weight_map"]
        for one in (source, output)
    )
    assert set(old) == set(new)
    zeros = total = 0
    for name in old:
        before, after = (
            safe_open(folder / table[name], "pt").get_tensor(name)
            for folder, table in ((source, old), (output, new))
        )
        assert before.dtype == after.dtype and before.shape == after.shape
        pruned = "layers" in name and before.dim() == 2
        kept = after != 0
        if pruned:
            assert updates or torch.equal(after[kept], before[kept])
            zeros, total = zeros + int((~kept).sum()), total + after.numel()
        else:
            assert torch.equal(before, after)
    return zeros / total


def processor() -> str:
    """The model name of the CPU."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


if __name__ == "__main__":
    main()
