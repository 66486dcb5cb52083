"""How a layer is made narrower: Torch-Pruning's functions, and one for GPT-2's Conv1D."""

from __future__ import annotations

from typing import Any

import torch
import torch_pruning as tp
from torch import nn

__all__ = ["channels", "customized", "is_conv1d", "narrow", "zero"]


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is the transposed linear layer of transformers, which is not imported."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


class _Conv1D(tp.BasePruningFunc):  # type: ignore[misc]
    """Narrows a Conv1D, whose weight is stored (in_features, out_features)."""

    def prune_out_channels(self, layer: Any, idxs: list[int]) -> Any:
        kept = _others(layer.nf, idxs)
        layer.weight = nn.Parameter(layer.weight.detach()[:, kept].contiguous())
        layer.bias = nn.Parameter(layer.bias.detach()[kept])
        layer.nf = len(kept)
        return layer

    def prune_in_channels(self, layer: Any, idxs: list[int]) -> Any:
        kept = _others(layer.nx, idxs)
        layer.weight = nn.Parameter(layer.weight.detach()[kept].contiguous())
        layer.nx = len(kept)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.nf)

    def get_in_channels(self, layer: Any) -> int:
        return int(layer.nx)


def _others(count: int, idxs: list[int]) -> list[int]:
    gone = set(idxs)
    return [i for i in range(count) if i not in gone]


def customized(module: nn.Module) -> dict[Any, Any]:
    """What Torch-Pruning must be told of types it does not know, for the parts of `module`."""
    return {type(part): _Conv1D() for part in module.modules() if is_conv1d(part)}


def _pruner(module: nn.Module) -> Any:
    if is_conv1d(module):
        return _Conv1D()
    return tp.pruner.function.PrunerBox[tp.ops.module2type(module)]


def channels(module: nn.Module, side: str) -> int:
    """Channels on one side of a layer."""
    found = _pruner(module)
    count = found.get_out_channels(module) if side == "out" else found.get_in_channels(module)
    return int(count)


def narrow(module: nn.Module, side: str, idxs: list[int]) -> None:
    """Remove channels of one side of a layer, in place."""
    found = _pruner(module)
    prune = found.prune_out_channels if side == "out" else found.prune_in_channels
    with torch.no_grad():
        prune(module, list(idxs))


def zero(module: nn.Module, side: str, idxs: torch.Tensor) -> None:
    """Set the weights of channels of one side of a layer to zero, in place."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.dim() < 2:
        return
    dim = 0 if side == "out" else 1
    if is_conv1d(module):
        dim = 1 - dim
    with torch.no_grad():
        weight.detach().index_fill_(dim, idxs.to(weight.device), 0)
