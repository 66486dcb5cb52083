"""Locating what is pruned: the chain of layers, and the weight matrices in each."""

from __future__ import annotations

from typing import Any

from atp_core.errors import ModelError
from atp_core.locating import outside
from atp_core.records import Block, Chain, PrunableWeight
from torch import nn

__all__ = ["locate"]

_LAYERS = "encoder.layer"  # where the model keeps its blocks, in the order in which they run
_DENSE = {"embeddings": "embedding", "pooler": "no sentence's embedding passes it"}


def locate(model: Any) -> list[Chain]:
    """The chain "text". Works on the meta device, and changes nothing.

    Raises:
        ModelError: there are no layers.
    """
    layers = getattr(getattr(model, "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise ModelError(f"{type(model).__name__} has no layers in {_LAYERS} to prune")
    blocks = []
    for number, layer in enumerate(layers):
        name = f"{_LAYERS}.{number}"
        weights = [
            PrunableWeight(f"{path}.weight", module)
            for path, module in layer.named_modules(prefix=name)
            if isinstance(module, nn.Linear)
        ]
        blocks.append(Block(name, layer, weights))
    # What lies outside the blocks stays dense, and users want to know why.
    rest = outside("", model, {id(layer) for layer in layers})
    return [Chain("text", blocks, {name: _DENSE.get(name, "no layer") for name, _ in rest})]
