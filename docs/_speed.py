"""Tables of docs/speed.md, from what the benchmarks of the runtimes and of pruning wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from _tables import line, read, rule, span

__all__ = ["tables"]

MODELS = {
    "llama-1.1b": "Llama, 1.1 B, random weights",
    "smollm2-135m": "SmolLM2-135M",
    "vit-b16": "ViT-B/16 (timm), random weights",
    "clip-vit-b32": "CLIP ViT-B/32 (open_clip), random weights",
}


FIRST, WITH_AMX = "sparse_cpu.json", "sparse_cpu_amx.json"
"""Grids of layers: on a processor without AMX, and on one with it."""


def tables() -> dict[str, Callable[[], str]]:
    """Name of each part of the page → what makes it."""
    return {
        **{name: partial(make, FIRST) for name, make in LAYERS.items()},
        **{f"amx_{name}": partial(make, WITH_AMX) for name, make in LAYERS.items()},
        "models": models,
        "memory": memory,
        "deepsparse": deepsparse,
        "growth": growth,
    }


def machine(results: str) -> str:
    """The machine."""
    return str(read(results)["machine"])


def layers(results: str) -> str:
    """Speed-ups of what `accelerate` chooses, a table for each type and number of threads."""
    found = read(results)["rows"]
    parts = []
    for dtype, threads in _kept(found, "dtype", "threads"):
        rows = [row for row in found if (row["dtype"], row["threads"]) == (dtype, threads)]
        sparsities = sorted({row["sparsity"] for row in rows})
        tokens = sorted({row["tokens"] for row in rows})
        told = " / ".join(f"{s:g}" for s in sparsities)
        lines = [
            f"**{dtype}, {threads} thread{'s' * (threads > 1)}** (sparsity {told}):",
            "",
            line(["weight", *(f"{count} token{'s' * (count > 1)}" for count in tokens)]),
            rule(len(tokens)),
        ]
        for shape in dict.fromkeys(row["shape"] for row in rows):
            by = {(row["tokens"], row["sparsity"]): row for row in rows if row["shape"] == shape}
            cells = [
                " / ".join(f"{by[count, s]['speedup']:.2f}" for s in sparsities) for count in tokens
            ]
            lines.append(line([shape.replace("x", " × "), *cells]))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def fairness(results: str) -> str:
    """The part of the gain that is our kernel's and not the zeros', for one token."""
    found = read(results)["rows"]
    lines = [line(["type", "dense in our kernel", "at 50 %", "at 70 %"]), rule(3)]
    for dtype in dict.fromkeys(row["dtype"] for row in found):
        cells = []
        for sparsity in (0.5, 0.7):
            rows = [
                row
                for row in found
                if (row["dtype"], row["threads"], row["tokens"]) == (dtype, 1, 1)
                and row["sparsity"] == sparsity
                and int(row["shape"].split("x")[0]) >= 4096
            ]
            cells.append(span(row["speedup"] for row in rows))
            own = span(
                max(ratio for name, ratio in row["ratios"].items() if name.startswith("full_"))
                for row in rows
            )
        lines.append(line([dtype, own, *cells]))
    return "\n".join(lines)


def slowest(results: str) -> str:
    """The worst cells of the grid, in a sentence."""
    found = read(results)["rows"]
    worst = min(found, key=lambda row: row["speedup"])
    slower = sum(row["speedup"] < 0.95 for row in found)
    plural = "s" * (worst["threads"] > 1)
    count = "none is" if not slower else "1 is" if slower == 1 else f"{slower} are"
    return (
        f"Of {len(found)} cells {count} more than 5 % slower than dense; the slowest is "
        f"{worst['speedup']:.2f} ({worst['dtype']}, {worst['shape']}, {worst['tokens']} "
        f"tokens at {worst['sparsity']:g}, {worst['threads']} thread{plural})."
    )


LAYERS = {"machine": machine, "layers": layers, "fairness": fairness, "slowest": slowest}
"""Parts that one machine's grid of layers makes."""


def models() -> str:
    """Whole models, a row for each type, number of threads and kind of work."""
    found = _models()
    keys = _kept(found, "model", "dtype", "threads", "name", "batch")
    lines = [
        line(["model", "type", "threads", "work", "batch", "dense, 1/s", "50 %", "70 %"]),
        rule(7),
    ]
    for key in keys:
        rows = {
            row["sparsity"]: row
            for row in found
            if key == tuple(row[name] for name in ("model", "dtype", "threads", "name", "batch"))
        }
        model, dtype, threads, work, batch = key
        cells = [f"{rows[s]['speedup']:.2f}×" if s in rows else "" for s in (0.5, 0.7)]
        rate = max(rows.values(), key=lambda row: row["sparsity"])
        speed = rate["dense_per_second"]
        dense = f"{speed:,.0f} {rate['unit']}" if speed >= 100 else f"{speed:.3g} {rate['unit']}"
        lines.append(line([MODELS[model], dtype, threads, work, batch, dense, *cells]))
    return "\n".join(lines)


def memory() -> str:
    """Memory of all weights under the runtime, as a share of the dense model's."""
    found = _models()
    lines = [line(["model", "type", "50 %", "70 %"]), rule(3)]
    for model, dtype in _kept(found, "model", "dtype"):
        cells = []
        for sparsity in (0.5, 0.7):
            rows = [
                row
                for row in found
                if (row["model"], row["dtype"], row["sparsity"]) == (model, dtype, sparsity)
            ]
            cells.append(span((row["memory_ratio"] for row in rows), digits=2))
        lines.append(line([MODELS[model], dtype, *cells]))
    return "\n".join(lines)


def deepsparse() -> str:
    """DeepSparse's own ratios beside ours on the same shape and type."""
    theirs, ours = read("deepsparse_reference.json"), read(FIRST)["rows"]
    width, threads = theirs["width"], theirs["threads"]
    lines = [
        f"DeepSparse {theirs['deepsparse']} (archived) on layers of {width} × {width} in float32, "
        f"{threads} thread{'s' * (threads > 1)}, in an environment of its own; milliseconds a "
        "layer, and the ratio to each one's own dense product.",
        "",
        line(["tokens", "zeros", "DeepSparse dense", "sparse", "ratio", "torch dense",
              "sparse-cpu", "ratio"]),
        rule(7),
    ]  # fmt: skip
    for row in theirs["rows"]:
        [own] = [
            one
            for one in ours
            if (one["shape"], one["dtype"], one["threads"])
            == (f"{width}x{width}", "float32", threads)
            and (one["tokens"], one["sparsity"]) == (row["tokens"], row["sparsity"])
        ]
        cells = [f"{row['dense_ms']:.2f}", f"{row['sparse_ms']:.2f}", f"{row['speedup']:.2f}"]
        cells += [f"{own['dense_ms']:.2f}", f"{own['dense_ms'] / own['speedup']:.2f}"]
        cells.append(f"{own['speedup']:.2f}")
        lines.append(line([row["tokens"], f"{row['sparsity']:.0%}", *cells]))
    lines += ["", "`python benchmarks/deepsparse_reference.py`"]
    return "\n".join(lines)


def growth() -> str:
    """Exponents of growth, and pruning over two forwards at the largest size."""
    found = read("growth.json")["axes"]
    lines = [
        line(["size that grows", "two forwards", "Wanda", "SparseGPT", "Wanda ÷ two forwards",
              "SparseGPT ÷ two forwards"]),
        rule(5),
    ]  # fmt: skip
    for axis, told in found.items():
        sizes = [row["size"] for row in told["rows"]]
        slopes = told["exponents"]
        exponents = [f"{slopes[name]:.2f}" for name in ("forwards", "wanda", "sparsegpt")]
        ratios = [
            span(row["ratios"][name] for row in told["rows"]) for name in ("wanda", "sparsegpt")
        ]
        lines.append(line([f"{axis}, {sizes[0]} to {sizes[-1]}", *exponents, *ratios]))
    return "\n".join(lines)


def _models() -> list[dict[str, Any]]:
    order = list(MODELS)
    return sorted(read("sparse_models.json"), key=lambda row: order.index(row["model"]))


def _kept(rows: Iterable[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    """The combinations of some values, in the order they come."""
    return list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))
