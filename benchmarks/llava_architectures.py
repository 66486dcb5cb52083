"""Coverage of transformers' image-text-to-text models by atp-llava, without weights.

Every architecture of the mapping is built at the size of its default config on the meta device and
located. Then a small model with random weights runs once on the CPU over random images, where its
images go in by `get_image_features`, and the engine prunes both chains with Wanda: that fails
where a block is missing or out of order, or a located weight is not consumed. Nothing is
downloaded. Writes benchmarks/results/llava_architectures.json and docs/llava-architectures.md:

    python benchmarks/llava_architectures.py [MODEL_TYPE …]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import nn

from atp_core.engine.pruning import PruneOptions, prune_model
from atp_core.methods.wanda import Wanda
from atp_core.records import Calibration, Chain, LoadedModel, Schedule, Source
from atp_llava._locate import locate
from atp_llava._source import is_vision_language

# The tests' small configs.
sys.path.append(str(Path(__file__).parents[1] / "plugins" / "atp-llava" / "tests"))

from _llava_configs import architectures, build, image_inputs

ROOT = Path(__file__).resolve().parents[1]
RATE = 0.5
LARGEST = 150_000_000  # weights of a small model that is run; some sizes do not shrink by name


@dataclass
class Row:
    """What was found for one architecture.

    Attributes:
        type: model type.
        architecture: class name.
        claimed: the plugin recognizes its default config.
        size: "default" or "small": the config that was located.
        chains: chain → number of blocks.
        matrices: weights in matrices of the whole model.
        located: those in prunable weights.
        dense: why → weights in matrices that stay dense.
        run: "pruned", or why no forward pass was made.
        problem: why it is not located, or None.
    """

    type: str
    architecture: str
    claimed: bool = False
    size: str = ""
    chains: dict[str, int] = field(default_factory=dict)
    matrices: int = 0
    located: int = 0
    dense: dict[str, int] = field(default_factory=dict)
    run: str = ""
    problem: str | None = None


def examine(model_type: str, architecture: str) -> Row:
    """Locate one architecture, and run a small model of it."""
    row = Row(model_type, architecture)
    model: Any = None
    try:
        config = transformers.CONFIG_MAPPING[model_type]()
        described = {**config.to_dict(), "architectures": [architecture]}
        row.claimed = is_vision_language(described)
        with torch.device("meta"):
            model = transformers.AutoModelForImageTextToText.from_config(config)
        row.size = "default"
    except Exception as error:
        row.problem = f"its default config makes no model ({_short(error)})"
    try:
        if model is None:
            model, row.size = build(model_type, "meta"), "small"
            row.claimed = is_vision_language(
                {**model.config.to_dict(), "architectures": [architecture]}
            )
            row.problem = None
        chains = locate(model)
    except Exception as error:
        row.problem = row.problem or _short(error)
        return row
    row.chains = {chain.name: len(chain.blocks) for chain in chains}
    row.located = sum(chain.parameters for chain in chains)
    row.matrices, row.dense = _account(model, chains)
    if not row.claimed:
        row.problem = "not recognized: its default config has no vision tower of its own"
    else:
        row.run = _run(model_type)
    return row


def _account(model: nn.Module, chains: Sequence[Chain]) -> tuple[int, dict[str, int]]:
    """Weights in matrices, and of those that stay dense how many by reason."""
    pruned = Counter[int]()
    for chain in chains:
        for block in chain.blocks:
            for weight in block.weights:
                pruned[id(getattr(weight.module, weight.parameter))] += weight.numel
    reasons = {tuple(k.split(".")): why for chain in chains for k, why in chain.dense.items()}
    total, dense = 0, Counter[str]()
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        total += parameter.numel()
        left = parameter.numel() - pruned[id(parameter)]
        if left:
            parts = name.split(".")
            matching = (
                why
                for prefix, why in reasons.items()
                if len(prefix) <= len(parts)
                and all(one in ("*", other) for one, other in zip(prefix, parts, strict=False))
            )
            dense[next(matching, "not accounted for")] += left
    return total, dict(dense.most_common())


def _run(model_type: str) -> str:
    """Prune a small model, or say why not."""
    torch.manual_seed(0)
    try:
        if sum(p.numel() for p in build(model_type, "meta").parameters()) > LARGEST:
            return "no small config"
        model: Any = build(model_type)
        chains = locate(model)
    except Exception as error:
        return f"no small config ({_short(error)})"
    if not hasattr(model, "get_image_features"):
        return "no get_image_features"
    try:
        inputs = image_inputs(model)
    except ValueError:
        return "images of another form"
    calibration = Calibration(
        batches=[None],
        forward=lambda _: model(**inputs, use_cache=False),
        samples=2,
        unit="images",
        dataset="random",
        fingerprint="random",
        examples=frozenset(),
        batch_samples=[2],
    )
    rates = {chain.name: {block.name: RATE for block in chain.blocks} for chain in chains}
    loaded = LoadedModel(model, Source("random weights"))
    try:
        report = prune_model(
            loaded, chains, Schedule(rates, RATE, "uniform"), Wanda(), calibration, PruneOptions()
        )
    except Exception as error:
        return f"failed ({_short(error)})"
    return "pruned" if abs(report.achieved - RATE) < 0.01 else f"pruned to {report.achieved:.3f}"


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


def page(rows: Sequence[Row]) -> str:
    """The Markdown page."""
    found = [row for row in rows if row.problem is None]
    ran = [row for row in found if row.run == "pruned"]
    lines = [
        "# Vision-language architectures",
        "",
        "Written by `python benchmarks/llava_architectures.py`; do not edit.",
        "",
        f"Every architecture that transformers {transformers.__version__} knows as image-text-to-"
        f"text ({len(rows)}), located on the meta device at the size of its default config. "
        "*Share* is the part of all weights in matrices that is prunable when both chains are "
        "chosen. *Run* says whether a small model with random weights was run over random images "
        f"and pruned by the engine to {RATE:.0%} in both chains, which fails where a block is "
        "missing or out of order, or a located weight is not consumed. It says nothing about the "
        "quality of the pruned model. Models whose prompt goes through an encoder of its own "
        "(Florence-2 and others) can be inspected; calibrating them is not supported.",
        "",
        f"**{len(found)} of {len(rows)} located ({len(found) / len(rows):.0%}), {len(ran)} of "
        "them run.**",
        "",
        "| model type | class | vision blocks | language blocks | share | largest dense part "
        "| run |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        largest = next(iter(row.dense.items()), ("", 0))
        part = f"{largest[0]} ({largest[1] / row.matrices:.1%})" if largest[1] else ""
        small = "" if row.size == "default" else ", small config"
        lines.append(
            f"| {row.type} | {row.architecture} | {row.chains.get('vision', 0)} "
            f"| {row.chains.get('language', 0)}{small} | {row.located / row.matrices:.1%} "
            f"| {_cell(part)} | {_cell(row.run)} |"
        )
    lines += ["", "## Not located", "", "| model type | class | why |", "|---|---|---|"]
    lines += [
        f"| {row.type} | {row.architecture} | {_cell(row.problem)} |"
        for row in rows
        if row.problem is not None
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Examine, write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", help="only these model types; writes nothing")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    warnings.simplefilter("ignore")  # of transformers, about configs this small
    started = time.perf_counter()
    rows = []
    for model_type, architecture in architectures().items():
        if arguments.types and model_type not in arguments.types:
            continue
        row = examine(model_type, architecture)
        rows.append(row)
        print(f"{row.type}: {row.problem or row.chains} {row.run}", file=sys.stderr, flush=True)
    if not arguments.types:
        facts = {"transformers": transformers.__version__, "torch": torch.__version__}
        result = {**facts, "rows": [asdict(row) for row in rows]}
        (ROOT / "benchmarks" / "results" / "llava_architectures.json").write_text(
            json.dumps(result, indent=1) + "\n", encoding="utf-8"
        )
        (ROOT / "docs" / "llava-architectures.md").write_text(page(rows), encoding="utf-8")
    located = sum(row.problem is None for row in rows)
    print(f"{located} of {len(rows)} located, {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
