"""Coverage of timm's models by atp-timm, measured on the meta device.

Every model timm knows is built at its true size without weights, run once on the meta device, and
located. Nothing is downloaded. Results are kept as they come, and an interrupted run goes on where
it stopped. Writes a JSON file and a Markdown page:

    python benchmarks/timm_architectures.py [--fresh] [--workers N] [MODEL …]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import timm
import torch
from torch import nn

from atp_core.records import Block
from atp_timm._load import on_meta
from atp_timm._locate import locate

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "timm_architectures.json"
PAGE = ROOT / "docs" / "timm-architectures.md"
LIMIT = 300  # seconds a model may take
CHUNK = 40  # models between two times that results are kept


def examine(name: str) -> dict[str, Any]:
    """Build, run and locate one model; what was found, or why nothing was."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT)
    started = time.perf_counter()
    row: dict[str, Any] = {"name": name}
    try:
        row["family"] = timm.model_entrypoint(name).__module__.rpartition(".")[2]
        row["built_on_meta"] = True
        try:
            with torch.device("meta"):
                model = timm.create_model(name).eval()
        except (NotImplementedError, RuntimeError) as error:
            row["built_on_meta"] = False
            row["why_not_on_meta"] = _short(error)
            model = on_meta(lambda: timm.create_model(name)).eval()
        row["class"] = type(model).__name__
        row["matrix_parameters"] = sum(map(_numel, _layers(model)))
        [chain] = locate(model)
        layers = {id(layer) for layer in _layers(model)}
        row["matrix_parameters"] += sum(  # parameters of other modules, such as fused ones
            weight.numel
            for block in chain.blocks
            for weight in block.weights
            if id(weight.module) not in layers
        )
        row |= {
            "blocks": len(chain.blocks),
            "block_classes": sorted({type(block.module).__name__ for block in chain.blocks}),
            "weights": sum(len(block.weights) for block in chain.blocks),
            "located_parameters": chain.parameters,
            "dense_parameters": _dense(model, chain.blocks, chain.dense),
        }
    except Exception as error:
        row["problem"] = _short(error)
    finally:
        signal.alarm(0)
    row["seconds"] = round(time.perf_counter() - started, 2)
    return row


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError(f"it takes longer than {LIMIT} s")


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return (module for module in model.modules() if isinstance(module, kinds))


def _numel(layer: nn.Module) -> int:
    weight = layer.weight
    return weight.numel() if isinstance(weight, torch.Tensor) else 0


def _dense(model: nn.Module, blocks: Iterable[Block], dense: Any) -> dict[str, int]:
    """Reason → matrix parameters that stay dense for it."""
    located = {id(weight.module) for block in blocks for weight in block.weights}
    found: dict[str, int] = defaultdict(int)
    for name, layer in model.named_modules():
        if layer in set(_layers(layer)) and id(layer) not in located:
            found[_reason(f"{name}.weight", dense)] += _numel(layer)
    return dict(found)


def _reason(name: str, dense: Any) -> str:
    """Why a weight stays dense, by the longest entry that covers it."""
    general = re.sub(r"(?<=[.])\d+(?=[.]|$)", "*", name)
    covering = [key for key in dense if general == key or general.startswith(f"{key}.")]
    return str(dense[max(covering, key=len)]) if covering else "not told"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:240] if type(error).__name__ == "ModelError" else (
        f"{type(error).__name__}: {text[:200]}"
    )


def run(names: list[str], workers: int, rows: dict[str, dict[str, Any]]) -> None:
    """Examine `names`, keeping results in `rows` and on disk as they come."""
    started = time.perf_counter()
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK]
        with ProcessPoolExecutor(workers) as pool:  # a new one, so that memory is given back
            for row in pool.map(examine, chunk):
                rows[row["name"]] = row
                if "problem" in row:
                    print(f"{row['name']}: {row['problem']}", file=sys.stderr)
        keep(rows)
        done = start + len(chunk)
        left = (time.perf_counter() - started) / done * (len(names) - done)
        print(f"{done}/{len(names)}, {left:.0f} s left", file=sys.stderr, flush=True)


def keep(rows: dict[str, dict[str, Any]]) -> None:
    """Write the results, sorted by name."""
    data = {
        "timm": timm.__version__,
        "torch": torch.__version__,
        "models": [rows[name] for name in sorted(rows)],
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    partial.replace(RESULTS)


def known() -> dict[str, dict[str, Any]]:
    """Results of an earlier run with these versions."""
    if not RESULTS.exists():
        return {}
    data = json.loads(RESULTS.read_text(encoding="utf-8"))
    if (data["timm"], data["torch"]) != (timm.__version__, torch.__version__):
        return {}
    return {row["name"]: row for row in data["models"]}


def page(rows: list[dict[str, Any]]) -> str:
    """The Markdown page."""
    found = [row for row in rows if "problem" not in row]
    matrices = sum(row["matrix_parameters"] for row in found)
    located = sum(row["located_parameters"] for row in found)
    shares = sorted(row["located_parameters"] / row["matrix_parameters"] for row in found)
    lines = [
        "# Vision architectures of timm",
        "",
        "Written by `python benchmarks/timm_architectures.py`; do not edit.",
        "",
        f"Every model that timm {timm.__version__} lists ({len(rows)}), built at its true size "
        "without weights and located on the meta device. *Covered* means: blocks were found, a "
        "forward pass enters each of them exactly once and in the located order, and it multiplies "
        "every located weight inside its block, as it is stored. It says nothing about the quality "
        "of a pruned model.",
        "",
        f"**{len(found)} of {len(rows)} models covered ({len(found) / len(rows):.1%}); of their "
        f"matrix parameters (weights of linear layers and convolutions) "
        f"{located / matrices:.1%} are located**, {shares[len(shares) // 2]:.1%} of the median "
        "model's. What is not covered has standardized weights (NFNet, BiT): their mean is "
        "subtracted when the model runs, so zeros would not stay. NFNets with squeeze-and-"
        "excitation count as covered, for these layers alone.",
        "",
        "## Not covered",
        "",
        "| model | family | why |",
        "|---|---|---|",
        *(
            f"| {row['name']} | {row.get('family', '')} | {_cell(_cause(row['problem']))} |"
            for row in rows
            if "problem" in row
        ),
        "",
        "## Covered in small part",
        "",
        "Less than half of the matrix parameters are located. The output layer of a small model "
        "may well be the larger part of it; standardized weights do not keep their zeros.",
        "",
        "| model | family | located | what stays dense most |",
        "|---|---|---:|---|",
        *_small(found),
        "",
        "## What stays dense",
        "",
        "| reason | models | matrix parameters, share of all |",
        "|---|---:|---:|",
        *_reasons(found, matrices),
        "",
        "## Families",
        "",
        "A family is a module of `timm.models`. *Blocks* are those of its models, fewest to most.",
        "",
        "| family | models | covered | blocks | matrix parameters located | classes of blocks |",
        "|---|---:|---:|---:|---:|---|",
        *_families(rows),
        "",
        "## Models that cannot be built on the meta device",
        "",
        *_not_on_meta(rows),
    ]
    return "\n".join(lines) + "\n"


def _small(found: list[dict[str, Any]]) -> Iterator[str]:
    for row in found:
        share = row["located_parameters"] / row["matrix_parameters"]
        if share < 0.5:
            dense = row["dense_parameters"]
            main = max(dense, key=dense.get)
            part = dense[main] / row["matrix_parameters"]
            yield f"| {row['name']} | {row['family']} | {share:.1%} | {_cell(main)} ({part:.0%}) |"


def _reasons(found: list[dict[str, Any]], matrices: int) -> Iterator[str]:
    count: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for row in found:
        for reason, parameters in row["dense_parameters"].items():
            count[reason] += 1
            total[reason] += parameters
    for reason in sorted(total, key=lambda key: -total[key]):
        yield f"| {_cell(reason)} | {count[reason]} | {total[reason] / matrices:.2%} |"


def _families(rows: list[dict[str, Any]]) -> Iterator[str]:
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        families[row.get("family", "")].append(row)
    for family in sorted(families):
        members = families[family]
        found = [row for row in members if "problem" not in row]
        if not found:
            yield f"| {family} | {len(members)} | 0 | | | |"
            continue
        fewest, most = (pick(row["blocks"] for row in found) for pick in (min, max))
        blocks = str(fewest) if fewest == most else f"{fewest}-{most}"
        located = sum(row["located_parameters"] for row in found)
        share = located / sum(row["matrix_parameters"] for row in found)
        classes = ", ".join(sorted({name for row in found for name in row["block_classes"]}))
        yield (
            f"| {family} | {len(members)} | {len(found)} | {blocks} | {share:.1%} | {classes} |"
        )


def _not_on_meta(rows: list[dict[str, Any]]) -> list[str]:
    found = [row for row in rows if "why_not_on_meta" in row]
    if not found:
        return ["There are none."]
    return [
        "They are built on the CPU and moved.",
        "",
        "| model | why |",
        "|---|---|",
        *(f"| {row['name']} | {_cell(row['why_not_on_meta'])} |" for row in found),
    ]


def _cause(problem: str) -> str:
    """The reasons in a message about blocks that were not found, else the message."""
    match = re.search(r"no blocks with prunable weights.*?[(](.*)[)]; a plugin", problem)
    return match[1] if match else problem


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="only these; prints them and writes nothing")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.models:
        for name in arguments.models:
            print(json.dumps(examine(name), indent=1))
        return 0
    names = timm.list_models()
    rows = {} if arguments.fresh else known()
    rows = {name: row for name, row in rows.items() if name in names}
    run([name for name in names if name not in rows], arguments.workers, rows)
    PAGE.write_text(page([rows[name] for name in sorted(rows)]), encoding="utf-8")
    covered = sum("problem" not in row for row in rows.values())
    print(f"{covered} of {len(rows)} covered")
    return 0


if __name__ == "__main__":
    sys.exit(main())
