"""Fewer heads and channels: quality of uniform rates against ATP, and what is faster and smaller.

    python benchmarks/structured.py --root FOLDER -o FILE [MODEL …] [--sparsities 0.2,0.3,0.5]

FOLDER has ``models`` and ``data`` as `_cifar10.py` says, and for smollm2-135m
``data/c4-cal/c4.utf8`` and ``data/wikitext-2-raw/wiki.test.raw``. β is searched on data held out
from calibration, with uniform rates among the trials; figures are those of the report split.

``shapes`` are 4 blocks of SmolLM2-135M's shapes with random weights, for times and sizes only.

Times are medians over rounds in which the dense and the smaller model take turns in one process,
and their ratio the median of the rounds' ratios. Each cell is written as it ends.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _cifar10 import laid_out

import atp_core
import atp_structured
from atp_core._plugins import build_manager
from atp_core.records import Calibration, LoadRequest, Source
from atp_structured._counts import Budget
from atp_structured._discover import discover
from atp_structured._remove import remove

MODELS: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "source": "embedded:smollm2-135m",
        "dtype": "bfloat16",
        "calibration": "data/c4-cal/c4.utf8",
        "report_data": "data/wikitext-2-raw/wiki.test.raw",
        "samples": 16,
        "search_samples": 8,
        "report_samples": 50,
        "seqlen": 512,
    },
    "vit-cifar10": {
        "source": "models/vit-cifar10",
        "calibration": "data/cifar10-jpeg/train",
        "report_data": "data/cifar10-jpeg/test",
    },
    "stories260k": {
        "source": "models/stories260k",
        "samples": 32,
        "search_samples": 32,
        "report_samples": 100,
        "seqlen": 128,
    },
}


def main() -> None:
    """Make every cell that the file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--sparsities", default="0.2,0.3,0.5")
    parser.add_argument("--report-samples", type=int)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    output = args.output.resolve()
    found = json.loads(output.read_text("utf-8")) if output.exists() else {}
    with laid_out(args.root):
        for name in args.models or list(MODELS):
            settings = dict(MODELS.get(name, {}))
            if args.report_samples is not None:
                settings["report_samples"] = args.report_samples
            for sparsity in map(float, args.sparsities.split(",")):
                key = f"{name}/{sparsity:g}"
                if key not in found:
                    if name == "shapes":
                        found[key] = shapes(sparsity, args.rounds)
                    else:
                        found[key] = cell(dict(settings), sparsity, args.rounds)
                    output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
                print(key, json.dumps(found[key]), flush=True)


def cell(settings: dict[str, Any], sparsity: float, rounds: int) -> dict[str, Any]:
    """Quality, size and time at one sparsity."""
    source = settings.pop("source")
    result = atp_structured.slim(source, sparsity=sparsity, beta="search", **settings)
    loading = {"dtype": settings["dtype"]} if "dtype" in settings else {}
    dense = atp_core.load(source, **loading)
    slim = result.loaded
    assert slim is not None
    return {
        "sparsity_achieved": result.achieved,
        "beta": result.search.beta,
        "parameters_dense": result.parameters_dense,
        "parameters": result.parameters,
        "bytes_dense": _bytes(dense.model),
        "bytes": _bytes(slim.model),
        "metrics": {
            who: {name: [metric.value, metric.stderr] for name, metric in metrics.items()}
            for who, metrics in result.metrics.items()
        },
        "times": times(dense, slim, rounds),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": result.seconds,
    }


def shapes(sparsity: float, rounds: int) -> dict[str, Any]:
    """Size and time of blocks with random weights, all at one rate."""
    import transformers

    hf: Any = transformers
    config = hf.LlamaConfig(
        vocab_size=1024,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    dense = hf.LlamaForCausalLM(config).eval()
    slim = copy.deepcopy(dense)
    source = Source("LlamaForCausalLM", slim)
    plugins = build_manager()
    loaded = plugins.caller("atp_load", "llm")(source=source, request=LoadRequest())
    chains = plugins.caller("atp_locate", "llm")(loaded=loaded)
    tokens = torch.arange(16)[None]
    batch = Calibration(
        [tokens], lambda ids: slim(ids, use_cache=False), 1, "", "", "", frozenset(), [1]
    )
    total = removed = 0
    for one in discover(chains, batch):
        budget = Budget(one.block.module, one.block.weights, one.groups)
        counts = budget.counts(sparsity)
        total, removed = total + budget.total, removed + budget.removed(counts)
        for group, count in zip(one.groups, counts, strict=True):
            remove(one.block.module, group, torch.arange(count))
    inputs = {f"{n} tokens": torch.randint(1024, (1, n)) for n in (1, 128)}
    return {
        "sparsity_achieved": removed / total,
        "bytes_dense": _bytes(dense),
        "bytes": _bytes(slim),
        "times": _timed(dense, slim, inputs, rounds),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def times(dense: Any, slim: Any, rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of a forward of each, and the median of the rounds' ratios."""
    return _timed(dense.model, slim.model, inputs_of(dense), rounds)


def _timed(
    dense: torch.nn.Module, slim: torch.nn.Module, work: dict[str, torch.Tensor], rounds: int
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, inputs in work.items():
        pairs = []
        runs = [forward(dense, inputs), forward(slim, inputs)]
        for _ in range(2):  # warm up
            for run in runs:
                run()
        for i in range(rounds):
            taken = [0.0, 0.0]
            for who in (0, 1) if i % 2 else (1, 0):
                started = time.perf_counter()
                runs[who]()
                taken[who] = time.perf_counter() - started
            pairs.append(taken)
        found[name] = {
            "dense": statistics.median(pair[0] for pair in pairs),
            "slim": statistics.median(pair[1] for pair in pairs),
            "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
        }
    return found


def inputs_of(loaded: Any) -> dict[str, torch.Tensor]:
    """Random inputs: one and many tokens or images at once."""
    torch.manual_seed(0)
    if loaded.plugin == "llm":
        size = loaded.model.config.vocab_size
        return {f"{n} tokens": torch.randint(size, (1, n)) for n in (1, 128)}
    shape = loaded.model.pretrained_cfg["input_size"]
    return {f"{n} images": torch.randn(n, *shape) for n in (1, 32)}


def forward(model: Any, inputs: torch.Tensor) -> Callable[[], Any]:
    """One forward pass, to be called."""

    def run() -> Any:
        with torch.inference_mode():
            return model(inputs)

    return run


def _bytes(model: torch.nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in model.parameters())


if __name__ == "__main__":
    main()
