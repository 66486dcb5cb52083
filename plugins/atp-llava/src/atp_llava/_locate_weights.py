"""The prunable weights of one block, and what in it stays dense and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from torch import nn
from transformers.pytorch_utils import Conv1D

from atp_core.locating import Found
from atp_core.records import PrunableWeight

__all__ = ["Scan"]

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

# Modules none of whose weights are pruned, by class name, with the reason.
_DENSE_CLASSES: Final = (
    (re.compile(r"Norm(2d|Gated|Act2d)?$"), "normalization"),
    (re.compile(r"Embed|PositionBias|RelPos"), "embedding"),
    (re.compile(r"Router|TopK|MoE\w*Gate$"), "router: it picks experts"),
    (re.compile(r"Indexer"), "indexer: it picks the tokens to attend to"),
    (re.compile(r"HyperConnection|AltUp|Residual$"), "mixes a few residual streams"),
)
_ROUTER_NAME: Final = re.compile(r"(router|gate|wg|gating)$")
# Linear layers that give each head one number: a decay, a step size, a gate.
_HEAD_GATE_NAME: Final = re.compile(r"^(in_proj_(a|b|ba)|(a|b|g|dt|beta|alpha|decay|sink)_proj)$")
_DOWN: Final = re.compile(r"down|w2|fc2|output|out_proj|\bwo\b")


class Scan:
    """Collects the weights of one block after another; a shared weight belongs to the first.

    Args:
        model: the whole model. What its embeddings hold is never prunable.
    """

    def __init__(self, model: nn.Module) -> None:
        self._seen = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, nn.Embedding)
            for parameter in module.parameters(recurse=False)
        }
        config: Any = getattr(model, "config", None)
        sizes = list(_sizes(config))
        self._experts = {size for name, size in sizes if "expert" in name and size > 1}
        heads = {size for name, size in sizes if "head" in name and "dim" not in name}
        self._heads = heads | {2 * size for size in heads}
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        self._hidden = getattr(text, "hidden_size", 0)

    def block(self, name: str, block: nn.Module) -> Found:
        """What `block`, whose qualified name is `name`, holds that earlier blocks do not."""
        found = Found()
        self._walk(name, block, found, inside=False)
        return found

    def _walk(self, path: str, module: nn.Module, to: Found, *, inside: bool) -> None:
        reason = _why_dense_class(module) if inside else None
        if reason is not None:
            new = [value for value in module.parameters() if id(value) not in self._seen]
            if new:
                to.dense[path] = reason
            self._seen.update(map(id, new))
            return
        for parameter, value in module.named_parameters(recurse=False):
            if id(value) in self._seen:
                if value.dim() >= 2:
                    to.dense[f"{path}.{parameter}"] = "tied to an embedding or an earlier weight"
                continue
            self._seen.add(id(value))
            if value.dim() < 2:
                if not parameter.endswith("bias"):
                    to.dense[f"{path}.{parameter}"] = "vector"
                continue
            why = self._why_dense(path, module, value)
            weights = [] if why else list(self._weights(path, module, parameter, value))
            to.weights.extend(weights)
            if not weights:
                to.dense[f"{path}.{parameter}"] = why or "no matrix product is known to read it"
        for child, inner in module.named_children():
            self._walk(f"{path}.{child}", inner, to, inside=True)

    def _why_dense(self, path: str, module: nn.Module, value: nn.Parameter) -> str | None:
        """Why a weight of a module that may hold prunable ones stays dense, or None."""
        if isinstance(module, _Convolution) and module.groups > 1:
            return "grouped convolution"
        if not isinstance(module, nn.Linear | Conv1D):
            return None
        outputs = value.shape[1] if isinstance(module, Conv1D) else value.shape[0]
        last = path.rsplit(".", 1)[-1]
        if last.startswith("per_layer_"):
            return "projection of per-layer embeddings"
        if outputs == 1:
            return "gate with a single output"
        if outputs in self._experts and _ROUTER_NAME.search(last):
            return "router: it picks experts"
        if outputs in self._heads and _HEAD_GATE_NAME.match(last):
            return "gate with one output a head"
        return None

    def _weights(
        self, path: str, module: nn.Module, parameter: str, value: nn.Parameter
    ) -> Iterator[PrunableWeight]:
        """The matrices of one parameter."""
        name = f"{path}.{parameter}"
        parts = name.split(".")
        expert = _is_expert(module)
        shared = "Shared" in type(module).__name__ or any("shared" in part for part in parts)
        conditional = not shared and (expert or "experts" in parts)
        if isinstance(module, Conv1D):
            yield PrunableWeight(name, module, parameter, transposed=True, conditional=conditional)
        elif isinstance(module, nn.MultiheadAttention) and parameter == "in_proj_weight":
            yield from _row_groups(name, module, parameter, value.shape[0], 3, conditional)
        elif isinstance(module, nn.Linear) and value.dim() == 2:
            # Block-diagonal: every group of rows multiplies another part of the input.
            groups = getattr(module, "n_groups", 1)
            count = groups if isinstance(groups, int) else 1
            yield from _row_groups(name, module, parameter, value.shape[0], count, conditional)
        elif isinstance(module, _Convolution):
            yield PrunableWeight(name, module, parameter, conditional=conditional)
        elif value.dim() == 3 and expert:
            transposed = self._stored_in_by_out(name, module, value)
            if transposed is not None:
                for i in range(value.shape[0]):
                    yield PrunableWeight(
                        f"{name}[{i}]",
                        module,
                        parameter,
                        index=(i,),
                        transposed=transposed,
                        conditional=conditional,
                    )

    def _stored_in_by_out(self, name: str, module: nn.Module, value: nn.Parameter) -> bool | None:
        """Whether a stack of experts is stored (experts, in, out); None where nothing tells."""
        # transformers states it on classes decorated with `use_experts_implementation`.
        declared = getattr(module, "is_transposed", None)
        if isinstance(declared, bool):
            return declared
        first, second = value.shape[1:]
        sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        if first != second and sizes in ((first, second), (second, first)):
            return sizes == (first, second)
        if (first == self._hidden) == (second == self._hidden):
            return None
        reads_hidden = _DOWN.search(".".join(name.split(".")[-2:])) is None
        return (first == self._hidden) == reads_hidden


def _why_dense_class(module: nn.Module) -> str | None:
    if isinstance(module, nn.Embedding):
        return "embedding"
    name = type(module).__name__
    for pattern, reason in _DENSE_CLASSES:
        # A mixture of experts may be named after its router and yet hold the experts.
        if pattern.search(name) and not any(_is_expert(inner) for inner in module.modules()):
            return reason
    return None


def _is_expert(module: nn.Module) -> bool:
    return "Expert" in type(module).__name__ or hasattr(type(module), "_apply_gate")


def _row_groups(
    name: str, module: nn.Module, parameter: str, rows: int, groups: int, conditional: bool
) -> Iterator[PrunableWeight]:
    """One weight, or one for each of `groups` equal groups of rows."""
    if groups == 1:
        yield PrunableWeight(name, module, parameter, conditional=conditional)
        return
    size = rows // groups
    for start in range(0, size * groups, size):
        span = (start, start + size)
        yield PrunableWeight(
            f"{name}[{start}:{start + size}]", module, parameter, rows=span, conditional=conditional
        )


def _sizes(config: Any) -> Iterator[tuple[str, int]]:
    """Every integer of a config and its sub-configs, by name."""
    values = config if isinstance(config, dict) else config.to_dict() if config is not None else {}
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _sizes(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(name), value
