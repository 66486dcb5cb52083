"""Locating the blocks and prunable weights of any language model of transformers.

No table of architectures: blocks are the elements of the outermost lists of layers in the text
model, and their weights are found by how they are stored.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from atp_core.errors import ModelError
from atp_core.locating import outside
from atp_core.records import Block, Chain

from ._locate_blocks import holds_layers, layers_of, roots
from ._locate_weights import Scan

__all__ = ["locate"]


def locate(model: nn.Module) -> list[Chain]:
    """Chains of `model`, their blocks in execution order, and the prunable weights of each.

    Works on the meta device and changes nothing. Encoder-decoder models have the chains
    "encoder" and "decoder", others "decoder" alone; of a multimodal model the text decoder is
    located, and its other towers are named in `Chain.dense`. A block without prunable weights is
    left out, and a weight that several blocks share belongs to the first.

    Raises:
        ModelError: there is no list of layers with prunable weights.
    """
    parts = roots(model)
    scan = Scan(model, alone="encoder" not in parts)
    chains: list[Chain] = []
    layers: set[int] = set()
    for name, root in parts.items():
        blocks: list[Block] = []
        dense: dict[str, str] = {}
        for layer_name, layer in layers_of(model, root):
            layers.add(id(layer))
            found = scan.block(layer_name, layer)
            # "model.layers.0.mlp.gate" → "model.layers.*.mlp.gate": one line for all layers.
            parent = layer_name.rpartition(".")[0]
            general = f"{parent}.*" if parent else "*"
            for path, reason in found.dense.items():
                dense.setdefault(general + path.removeprefix(layer_name), reason)
            if found.weights:
                blocks.append(Block(layer_name, layer, found.weights))
        if blocks:
            chains.append(Chain(name, blocks, dense))
    if not chains:
        raise ModelError(
            f"no list of layers with prunable weights was found in {type(model).__name__}; "
            "a plugin that implements atp_locate for this architecture can handle it "
            "(`atp plugins new`)"
        )
    # What lies outside all blocks is told once, with the last chain.
    last = chains[-1]
    rest = {path: _reason(part, model) for path, part in outside("", model, layers)}
    chains[-1] = Chain(last.name, last.blocks, {**rest, **last.dense})
    return chains


def _reason(module: nn.Module | nn.Parameter, model: nn.Module) -> str:
    if isinstance(module, nn.Parameter):
        return "outside the blocks"
    ask: Any = getattr(model, "get_output_embeddings", None)
    output = ask() if ask is not None else None
    if module is output or any(part is output for part in module.modules()):
        return "output layer"
    holders = [part for part in module.modules() if next(part.parameters(False), None) is not None]
    if "Embedding" in type(module).__name__ or all(isinstance(p, nn.Embedding) for p in holders):
        return "embedding"
    if all(parameter.dim() < 2 for parameter in module.parameters()):
        return "normalization"
    if holds_layers(module):
        return f"another model ({type(module).__name__}), which text alone does not pass"
    return "outside the blocks"
