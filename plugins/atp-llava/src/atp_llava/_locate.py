"""Locating the blocks and prunable weights of a vision tower and a language model.

No table of architectures: the two parts are found by name, their blocks are the elements of the
outermost lists of layers, and weights are found by how they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from atp_core.errors import ModelError
from atp_core.locating import outside
from atp_core.records import Block, Chain

from ._locate_blocks import Layer, layers_of, parts_of, unused_layers
from ._locate_weights import Scan

__all__ = ["locate"]


def locate(model: nn.Module) -> list[Chain]:
    """The chains "vision" and "language" of `model`, in the order in which a forward runs them.

    "vision" is pruned only where it is asked for. Works on the meta device and changes nothing.
    What lies between and around the towers stays dense and is named with its reason in
    `Chain.dense` of the last chain; so are layers of a tower whose output is never read.

    Raises:
        ModelError: no language model with layers is found.
    """
    parts = parts_of(model)
    scan = Scan(model)
    chains: list[Chain] = []
    claimed: set[int] = set()
    for name, roots in parts.items():
        layers = [layer for root in roots for layer in layers_of(model, root)]
        claimed.update(id(layer.module) for layer in layers)
        unused = unused_layers(model, layers) if name == "vision" else {}
        blocks, dense = _blocks(layers, unused, scan)
        if blocks:
            chains.append(Chain(name, blocks, dense, default=name != "vision"))
    if not any(chain.default for chain in chains):
        raise ModelError(
            f"no language model with a list of layers was found in {type(model).__name__}; "
            "a plugin that implements atp_locate for this architecture can handle it "
            "(`atp plugins new`)"
        )
    last = chains[-1]
    rest = {path: _reason(path, part, parts, model) for path, part in outside("", model, claimed)}
    chains[-1] = Chain(last.name, last.blocks, {**rest, **last.dense}, default=last.default)
    return chains


def _blocks(
    layers: Sequence[Layer], unused: Mapping[str, str], scan: Scan
) -> tuple[list[Block], dict[str, str]]:
    """The blocks among `layers`, and what in them stays dense."""
    blocks: list[Block] = []
    dense: dict[str, str] = {}
    for layer in layers:
        if layer.name in unused:
            dense[layer.name] = unused[layer.name]
            continue
        found = scan.block(layer.name, layer.module)
        # "layers.0.mlp.gate" → "layers.*.mlp.gate": one line for all layers of a list.
        general = f"{layer.parent}.*" if layer.parent else "*"
        for path, reason in found.dense.items():
            dense.setdefault(general + path.removeprefix(layer.name), reason)
        if found.weights:
            blocks.append(Block(layer.name, layer.module, found.weights))
    return blocks, dense


def _reason(
    path: str,
    module: nn.Module | nn.Parameter,
    parts: Mapping[str, Sequence[str]],
    model: nn.Module,
) -> str:
    if isinstance(module, nn.Parameter):
        return "outside the blocks"
    ask: Any = getattr(model, "get_output_embeddings", None)
    output = ask() if ask is not None else None
    if output is not None and any(inner is output for inner in module.modules()):
        return "output layer"
    inside = {
        part
        for part, roots in parts.items()
        if any(path.startswith(f"{root}.") or not root for root in roots)
    }
    last = path.rsplit(".", 1)[-1].lower()
    if "audio" in last or "speech" in last:
        return "another modality"
    holders = [part for part in module.modules() if next(part.parameters(False), None) is not None]
    if "embed" in type(module).__name__.lower() or "patch" in last:
        return "patch embedding" if "vision" in inside else "embedding"
    if all(isinstance(holder, nn.Embedding) for holder in holders):
        return "embedding"
    if all(parameter.dim() < 2 for parameter in module.parameters()):
        return "normalization"
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        return "patch embedding"
    if "vision" in inside:
        return "part of the vision tower outside its blocks"
    if "language" in inside:
        return "part of the language model outside its blocks"
    return "projector: between the vision tower and the language model"
