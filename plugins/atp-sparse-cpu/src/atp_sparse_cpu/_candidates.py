"""Which linear layers of a model can be packed, and why others cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ._linear import SparseLinear
from ._packed import DTYPES

__all__ = ["Candidate", "candidates"]


@dataclass
class Candidate:
    """A linear layer.

    Attributes:
        name: the first of its qualified names.
        module: the layer.
        weight: its weight as [out_features, in_features].
        obstacle: why it must stay as it is; empty where it need not.
        slots: the modules that have it, and under what name.
        transposed: whether it keeps the weight as [in_features, out_features].
    """

    name: str
    module: nn.Module
    weight: Tensor
    obstacle: str
    transposed: bool = False
    slots: list[tuple[nn.Module, str]] = field(default_factory=list)


def candidates(model: nn.Module) -> list[Candidate]:
    """All linear layers of a module tree, each once, however many names it has."""
    uses = Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module._parameters.values()
        if parameter is not None
    )
    found: dict[int, Candidate] = {}
    for path, parent in model.named_modules():
        for name, child in parent._modules.items():
            if child is None:
                continue
            full = f"{path}.{name}" if path else name
            candidate = found.get(id(child))
            if candidate is None:
                candidate = _candidate(full, child, uses)
                if candidate is None:
                    continue
                found[id(child)] = candidate
            candidate.slots.append((parent, name))
            candidate.obstacle = candidate.obstacle or _read_by(parent)
        for projection in _bare_projections(path, parent):
            found[id(projection)] = projection
    return list(found.values())


def _candidate(name: str, module: nn.Module, uses: Counter[int]) -> Candidate | None:
    if isinstance(module, SparseLinear):
        return Candidate(name, module, module.masks, "it is packed already")
    transposed = _is_conv1d(module)
    if not isinstance(module, nn.Linear) and not transposed:
        return None
    weight = module._parameters.get("weight")
    if weight is None:
        shown = torch.empty(_shape(module), device="meta")
        return Candidate(name, module, shown, "its weight is computed anew at every call")
    matrix = weight.t() if transposed else weight
    return Candidate(name, module, matrix, _obstacle(module, weight, uses), transposed)


def _shape(module: nn.Module) -> tuple[int, int]:
    """(out_features, in_features) as a layer tells them."""
    return int(getattr(module, "out_features", 0)), int(getattr(module, "in_features", 0))


def _obstacle(module: nn.Module, weight: Tensor, uses: Counter[int]) -> str:
    bias = module._parameters.get("bias")
    if isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward:
        return f"{type(module).__name__} computes in a way of its own"
    if "forward" in module.__dict__:
        return "its forward was replaced"
    if weight.data.__class__ is not Tensor:
        return f"its weight is a {type(weight.data).__name__}"
    if weight.device.type != "cpu":
        return f"its weight is on {weight.device}"
    if weight.dtype not in DTYPES:
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}"
    if uses[id(weight)] > 1:
        return "its weight is shared with another module"
    if bias is not None and (bias.dtype != weight.dtype or bias.device != weight.device):
        return "its bias is of another type or device"
    if bias is not None and not bias.is_contiguous():
        return "its bias is not contiguous"
    if weight.numel() == 0:
        return "it has no weights"
    return ""


def _is_conv1d(module: nn.Module) -> bool:
    """transformers' Conv1D, a linear layer with its weight transposed (GPT-2)."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def _read_by(parent: nn.Module) -> str:
    """Modules that read a child's weight and never call the child."""
    for kind in (nn.MultiheadAttention, nn.TransformerEncoderLayer):
        if isinstance(parent, kind):
            return f"{kind.__name__} reads its weight and does not call it"
    return ""


def _bare_projections(path: str, module: nn.Module) -> Iterator[Candidate]:
    """Projections that a fused attention keeps as bare parameters."""
    if not isinstance(module, nn.MultiheadAttention):
        return
    for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
        weight = module._parameters.get(name)
        if weight is not None:
            full = f"{path}.{name}" if path else name
            reason = "MultiheadAttention keeps it as a parameter and not as a layer"
            yield Candidate(full, module, weight, reason)
