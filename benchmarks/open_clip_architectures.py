"""Coverage of open_clip's architectures by atp-open-clip, on the meta device at their true sizes.

Every architecture of `open_clip.list_models()` is built without memory for its weights, located,
and run once on inputs without numbers, to see that its blocks run once each and in the located
order. Nothing is downloaded: text towers of the Hugging Face hub are built from their published
sizes. Writes a JSON file and a Markdown table:

    python benchmarks/open_clip_architectures.py [--json FILE] [--output FILE] [NAME …]

Exits with 1 if an architecture is not covered.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import open_clip
import timm
import torch
import transformers
from torch import nn

from atp_core.records import Block, Chain, LoadedModel, LoadRequest, Source
from atp_open_clip._load import load
from atp_open_clip._locate import locate

ROOT = Path(__file__).parents[1]

# Sizes of the text towers that a config only names. Only what the architecture depends on.
HUB_SIZES: dict[str, dict[str, Any]] = {
    "roberta-base": {
        "model_type": "roberta", "vocab_size": 50265, "hidden_size": 768,
        "max_position_embeddings": 514, "type_vocab_size": 1,
    },
    "xlm-roberta-base": {
        "model_type": "xlm-roberta", "vocab_size": 250002, "hidden_size": 768,
        "max_position_embeddings": 514, "type_vocab_size": 1,
    },
    "xlm-roberta-large": {
        "model_type": "xlm-roberta", "vocab_size": 250002, "hidden_size": 1024,
        "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "max_position_embeddings": 514, "type_vocab_size": 1,
    },
    "google/mt5-base": {
        "model_type": "mt5", "vocab_size": 250112, "d_model": 768, "d_kv": 64, "d_ff": 2048,
        "num_layers": 12, "num_heads": 12,
    },
    "google/mt5-xl": {
        "model_type": "mt5", "vocab_size": 250112, "d_model": 2048, "d_kv": 64, "d_ff": 5120,
        "num_layers": 24, "num_heads": 32,
    },
    "facebook/nllb-200-distilled-600M": {
        "model_type": "m2m_100", "vocab_size": 256206, "d_model": 1024, "encoder_layers": 12,
        "decoder_layers": 12, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096,
        "max_position_embeddings": 1024,
    },
    "facebook/nllb-200-distilled-1.3B": {
        "model_type": "m2m_100", "vocab_size": 256206, "d_model": 1024, "encoder_layers": 24,
        "decoder_layers": 24, "encoder_ffn_dim": 8192, "decoder_ffn_dim": 8192,
        "max_position_embeddings": 1024,
    },
}  # fmt: skip


@dataclass
class Row:
    """What was found for one architecture.

    Attributes:
        name: its name in open_clip.
        towers: classes of the image and the text tower.
        blocks: chain → number of blocks.
        weights: number of prunable weights (matrices).
        parameters: all of the model.
        matrices: those in matrices and convolutions that are no embeddings.
        located: those in prunable weights.
        dense: part → why it stays dense.
        note: what else there is to know.
        problem: why it is not covered, or None.
    """

    name: str
    towers: str = ""
    blocks: dict[str, int] = field(default_factory=dict)
    weights: int = 0
    parameters: int = 0
    matrices: int = 0
    located: int = 0
    dense: dict[str, str] = field(default_factory=dict)
    note: str = ""
    problem: str | None = None


def examine(name: str) -> Row:
    """Build, locate and run one architecture."""
    row = Row(name)
    try:
        loaded, row.note = build(name)
        model: Any = loaded.model
        text = getattr(model, "text", None)
        row.towers = f"{_kind(model.visual)} + {_kind(text) if text is not None else 'Transformer'}"
        chains = locate(model)
        weights = [w for chain in chains for block in chain.blocks for w in block.weights]
        row.blocks = {chain.name: len(chain.blocks) for chain in chains}
        row.weights = len(weights)
        row.located = sum(weight.numel for weight in weights)
        row.parameters = sum(parameter.numel() for parameter in model.parameters())
        row.matrices = matrices(model)
        row.dense = {key: value for chain in chains for key, value in chain.dense.items()}
        row.problem = run(model, chains)
    except Exception as error:
        row.problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return row


def build(name: str) -> tuple[LoadedModel, str]:
    """The model on the meta device, and a note on where its text tower's sizes are from."""
    config = open_clip.get_model_config(name)
    tower = config["text_cfg"].get("hf_model_name")
    if tower is None:
        return load(Source(f"open_clip:{name}"), LoadRequest(meta=True)), ""
    with tempfile.TemporaryDirectory() as folder:
        config["text_cfg"]["hf_model_name"] = folder
        Path(folder, "config.json").write_text(json.dumps(HUB_SIZES[tower]))
        Path(folder, "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        loaded = load(Source(folder), LoadRequest(meta=True))
    return loaded, f"text tower with the published sizes of {tower}"


def matrices(model: nn.Module) -> int:
    """Parameters in matrices and convolutions that are no embeddings."""
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    seen: dict[int, int] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            projection = name.endswith("proj_weight") or name in ("proj", "text_projection")
            if parameter.dim() >= 2 and (isinstance(module, kinds) or projection):
                seen[id(parameter)] = parameter.numel()
    return sum(seen.values())


def run(model: Any, chains: Sequence[Chain]) -> str | None:
    """What is wrong with the order of the blocks in a forward pass, or None."""
    blocks: list[Block] = [block for chain in chains for block in chain.blocks]
    order: list[str] = []
    handles = [
        block.module.register_forward_pre_hook(
            lambda module, args, name=block.name: order.append(name)
        )
        for block in blocks
    ]
    height, width = model.visual.image_size if isinstance(
        model.visual.image_size, tuple | list
    ) else (model.visual.image_size,) * 2
    inner = getattr(getattr(model, "text", None), "transformer", None)
    if isinstance(inner, transformers.PreTrainedModel):
        # transformers looks whether the mask leaves anything out, and there is nothing to see.
        handles.append(inner.register_forward_pre_hook(_without_mask, with_kwargs=True))
    context = getattr(model, "context_length", None) or 64
    try:
        with (
            torch.inference_mode(),
            torch.device("meta"),
            patch("torch.fx.experimental._config.meta_nonzero_assume_all_nonzero", True),
        ):
            images = torch.empty(2, 3, height, width)
            texts = torch.empty(2, min(context, 77), dtype=torch.long)
            model(images, texts)
    finally:
        for handle in handles:
            handle.remove()
    located = [block.name for block in blocks]
    if sorted(order) != sorted(located):
        odd = sorted(set(located) ^ set(order)) or [n for n in set(order) if order.count(n) > 1]
        return f"blocks not run once each: {odd[:3]}"
    for chain in chains:
        names = [block.name for block in chain.blocks]
        if [name for name in order if name in set(names)] != names:
            return f"the blocks of chain {chain.name!r} run in another order than located"
    return None


def _without_mask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return args, {**kwargs, "attention_mask": None}


def _kind(module: nn.Module) -> str:
    trunk = getattr(module, "trunk", None)
    if trunk is not None:
        return f"timm {type(trunk).__name__}"
    inner = getattr(module, "transformer", None)
    if type(module).__name__ == "HFTextEncoder" and inner is not None:
        return f"transformers {type(inner).__name__}"
    return type(module).__name__


def page(rows: Sequence[Row]) -> str:
    """The Markdown page."""
    covered = [row for row in rows if row.problem is None]
    share = sum(row.located for row in covered) / max(sum(row.matrices for row in covered), 1)
    lines = [
        "# open_clip architectures",
        "",
        "Written by `python benchmarks/open_clip_architectures.py`; do not edit.",
        "",
        f"Every architecture of open_clip {open_clip.__version__} (with timm {timm.__version__} "
        f"and transformers {transformers.__version__}), at its true size on the meta device. "
        "*Covered* means: blocks and prunable weights were located in both towers, and in one "
        "forward pass of the model every block ran once and in the located order. It says nothing "
        "about the quality of a pruned model. Text towers that open_clip takes from the Hugging "
        "Face hub are built from their published sizes.",
        "",
        f"**{len(covered)} of {len(rows)} covered; {share:.1%} of the parameters in their matrices "
        "and convolutions can be pruned.** The rest are convolutions that are depthwise or lie "
        "outside the blocks, pooling heads and projections.",
        "",
    ]
    if len(covered) < len(rows):
        lines += ["## Not covered", "", "| architecture | why |", "|---|---|"]
        lines += [f"| {row.name} | {row.problem} |" for row in rows if row.problem is not None]
        lines.append("")
    lines += [
        "## Covered",
        "",
        "| architecture | towers | blocks | weights | parameters | prunable | of matrices |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in covered:
        blocks = ", ".join(f"{name} {count}" for name, count in row.blocks.items())
        size = f"{row.parameters / 1e6:.0f} M"
        shares = f"{row.located / row.parameters:.0%} | {row.located / row.matrices:.1%}"
        lines.append(
            f"| {row.name} | {row.towers} | {blocks} | {row.weights} | {size} | {shares} |"
        )
    reasons: dict[str, set[str]] = {}
    for row in covered:
        for part, reason in row.dense.items():
            reasons.setdefault(reason, set()).add(part.rsplit(".", 1)[-1])
    lines += ["", "## What stays dense", "", "| reason | parts |", "|---|---|"]
    for reason, parts in sorted(reasons.items()):
        shown = ", ".join(f"`{part}`" for part in sorted(parts)[:12])
        lines.append(f"| {reason} | {shown}{' …' if len(parts) > 12 else ''} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine all architectures, or those named, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures; all if none")
    parser.add_argument(
        "--json", type=Path, default=ROOT / "benchmarks/results/open_clip_architectures.json"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs/open-clip-architectures.md")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for name in options.names or open_clip.list_models():
        began = time.perf_counter()
        rows.append(examine(name))
        told = rows[-1].problem or rows[-1].blocks
        print(f"{name}: {told} ({time.perf_counter() - began:.1f} s)", file=sys.stderr, flush=True)
    if not options.names:
        versions = {
            "open_clip": open_clip.__version__,
            "timm": timm.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }
        data = {"versions": versions, "architectures": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        options.output.write_text(page(rows), encoding="utf-8")
    return int(any(row.problem is not None for row in rows))


if __name__ == "__main__":
    sys.exit(main())
