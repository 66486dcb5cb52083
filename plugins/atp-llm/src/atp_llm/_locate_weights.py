"""The prunable weights of one block, and what in it stays dense and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from atp_core.records import PrunableWeight

__all__ = ["Found", "Scan", "StoredWeight"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

# Last part of a module's name, or its class, where it picks experts or chooses between paths.
_ROUTER_NAME = re.compile(r"^(router|gate|wg|classifier|gating|router_gate|gate_network)$")
_ROUTER_CLASS = re.compile(r"(Router|TopKGate|TopkRouter|TopKGating|MoEGate|GateNetwork)")
_EXPERTS_CLASS = re.compile(r"Expert")
# What a fused expert tensor maps from or to the residual stream, by name.
_FROM_HIDDEN = re.compile(r"(gate|up|w1|w3|v1|wi|fc1|input|in_proj)")
_TO_HIDDEN = re.compile(r"(down|w2|wo|fc2|output|out_proj)")


@dataclass(eq=False)
class StoredWeight(PrunableWeight):
    """A weight whose parameter is stored with another number of dimensions than it is used with.

    Attributes:
        stored: the parameter is viewed with this shape before `index` and `transposed` apply,
            e.g. (experts, ffn, hidden) where it is stored (experts · ffn, hidden).
    """

    stored: tuple[int, ...] = ()

    @property
    def tensor(self) -> torch.Tensor:
        """The whole parameter, detached, shape `stored`."""
        return super().tensor.view(self.stored)


@dataclass
class Found:
    """What a block holds.

    Attributes:
        weights: its prunable weights, in order of registration.
        dense: what stays dense, by name, and why.
    """

    weights: list[PrunableWeight] = field(default_factory=list)
    dense: dict[str, str] = field(default_factory=dict)


class Scan:
    """Collects the weights of one block after another; a shared weight belongs to the first.

    Args:
        model: the whole model; what its embeddings hold is never prunable.
        expert_counts: numbers of experts a layer may have, from the config.
    """

    def __init__(self, model: nn.Module, expert_counts: frozenset[int]) -> None:
        self._expert_counts = expert_counts
        self._seen: set[int] = set()
        self._embedded = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, nn.Embedding)
            for parameter in module.parameters(recurse=False)
        }

    def block(self, name: str, block: nn.Module) -> Found:
        """Prunable weights of `block`, whose qualified name is `name`, not seen before."""
        found = Found()
        for inner, module in block.named_modules():
            path = f"{name}.{inner}" if inner else name
            for parameter, value in module.named_parameters(recurse=False):
                if value.dim() < 2 or id(value) in self._seen:
                    continue
                self._seen.add(id(value))
                reason = self._why_dense(path, module, parameter, value)
                if reason is None:
                    weights = list(self._weights(path, module, parameter, value))
                    if weights:
                        found.weights.extend(weights)
                        continue
                    reason = "how it multiplies activations is not known"
                found.dense[f"{path}.{parameter}"] = reason
        return found

    def _why_dense(
        self, path: str, module: nn.Module, parameter: str, value: nn.Parameter
    ) -> str | None:
        """Why a parameter stays dense, or None."""
        last = path.rsplit(".", 1)[-1]
        if isinstance(module, nn.Embedding) or id(value) in self._embedded:
            return "embedding"
        if "Norm" in type(module).__name__:
            return "normalization"
        if _ROUTER_CLASS.search(type(module).__name__):
            return "router: it picks experts"
        if isinstance(module, (nn.Linear, Conv1D)) or parameter == "weight":
            outputs = value.shape[1] if isinstance(module, Conv1D) else value.shape[0]
            if outputs == 1 and value.dim() == 2:
                return "gate with a single output"
            if outputs in self._expert_counts and (
                _ROUTER_NAME.match(last) or "router" in path.split(".")
            ):
                return "router: it picks experts"
        if isinstance(module, _CONVOLUTIONS) and module.groups > 1:
            return "depthwise convolution"
        return None

    def _weights(
        self, path: str, module: nn.Module, parameter: str, value: nn.Parameter
    ) -> Iterator[PrunableWeight]:
        name = f"{path}.{parameter}"
        # Experts in a ModuleList of their own are conditional as well as fused ones.
        conditional = "experts" in path.split(".")
        if isinstance(module, Conv1D):
            yield PrunableWeight(name, module, parameter, transposed=True, conditional=conditional)
        elif (isinstance(module, nn.Linear) and value.dim() == 2) or isinstance(
            module, _CONVOLUTIONS
        ):
            yield PrunableWeight(name, module, parameter, conditional=conditional)
        elif value.dim() == 3 and value.shape[0] in self._expert_counts:
            transposed = self._expert_transposed(module, parameter, value)
            if transposed is not None:
                for expert in range(value.shape[0]):
                    yield PrunableWeight(
                        f"{name}[{expert}]",
                        module,
                        parameter,
                        index=(expert,),
                        transposed=transposed,
                        conditional=True,
                    )

    def _expert_transposed(
        self, module: nn.Module, parameter: str, value: nn.Parameter
    ) -> bool | None:
        """Whether a fused expert tensor is stored (experts, in, out); None if it cannot be told."""
        # transformers states it on every class decorated with `use_experts_implementation`.
        declared = getattr(module, "is_transposed", None)
        if isinstance(declared, bool):
            return declared
        return None
