"""The prunable weights of one block, and what in it stays dense and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from atp_core.locating import Found
from atp_core.records import PrunableWeight

from ._locate_layouts import Layout, StoredWeight, bare_layout, expert_orientations

__all__ = ["Scan"]

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

# Modules none of whose weights are pruned, by class name, with the reason.
_DENSE_CLASSES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"Norm(Gated)?$"), "normalization"),
    (re.compile(r"Embedding|PositionBias|RelativeLogits|RelPos"), "embedding"),
    (re.compile(r"Router|TopK|Top\d|MoE\w*Gate$"), "router: it picks experts"),
    (re.compile(r"Indexer"), "indexer: it picks the tokens to attend to"),
    (
        re.compile(r"HyperConnection|AltUp|GatedResidual|AttentionResidual|MessageAttention"),
        "mixes a few residual streams: small, and every weight of the block passes through it",
    ),
    (re.compile(r"ShortConvolution$"), "short convolution"),
)
_ROUTER_NAME = re.compile(r"^(router|gate|wg|classifier|gating|router_gate)$")
_CROSS_NAMES = frozenset({"encoder_attn", "cross_attn", "crossattention", "EncDecAttention"})
_CROSS = "cross-attention: text alone does not pass it"
# Linear layers that give each head one number: a decay, a step size, a gate.
_HEAD_GATE_NAME = re.compile(r"^(in_proj_(a|b|ba)|(a|b|g|dt|beta|alpha|decay|sink)_proj)$")


class Scan:
    """Collects the weights of one block after another; a shared weight belongs to the first.

    Args:
        model: the whole model. What its embeddings hold is never prunable, so an output layer or
            projection tied to them is not either.
        alone: the decoder runs without an encoder, so that its cross-attention does not run.
    """

    def __init__(self, model: nn.Module, *, alone: bool) -> None:
        self._seen: set[int] = set()
        self._embedded = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, nn.Embedding)
            for parameter in module.parameters(recurse=False)
        }
        sizes = list(_sizes(getattr(model, "config", None)))
        self._experts = {size for name, size in sizes if "expert" in name and size > 1}
        heads = {size for name, size in sizes if "head" in name and "dim" not in name}
        self._heads = heads | {2 * size for size in heads}
        self._alone = alone
        self._orientations = expert_orientations(model, _hidden_size(model))

    def block(self, name: str, block: nn.Module) -> Found:
        """What `block`, whose qualified name is `name`, holds that earlier blocks do not."""
        found = Found()
        if self._alone and _is_cross_layer(block):
            found.dense[name] = _CROSS
            self._seen.update(map(id, block.parameters()))
        else:
            self._walk(name, block, (), found)
        return found

    def _walk(self, path: str, module: nn.Module, above: tuple[nn.Module, ...], to: Found) -> None:
        owners = (*above, module)
        reason = _why_dense_class(module) if above else None
        if self._alone and above and path.rsplit(".", 1)[-1] in _CROSS_NAMES:
            reason = _CROSS
        if reason is not None:
            if any(id(parameter) not in self._seen for parameter in module.parameters()):
                to.dense[path] = reason
            self._seen.update(map(id, module.parameters()))
            return
        for parameter, value in module.named_parameters(recurse=False):
            if id(value) in self._seen:
                continue
            self._seen.add(id(value))
            name = f"{path}.{parameter}"
            if value.dim() < 2:
                if not parameter.endswith("bias"):
                    to.dense[name] = "vector"
                continue
            why = self._why_dense(path, module, value)
            if why is None:
                weights = list(self._weights(name, owners, parameter, value))
                to.weights.extend(weights)
                if not weights:
                    to.dense[name] = "no matrix product reads it in place"
                elif sum(weight.numel for weight in weights) < value.numel():
                    to.dense[name] = "partly: the rest belongs to experts that do nothing"
            else:
                to.dense[name] = why
        for child, inner in module.named_children():
            self._walk(f"{path}.{child}", inner, owners, to)

    def _why_dense(self, path: str, module: nn.Module, value: nn.Parameter) -> str | None:
        """Why a weight of a module that may hold prunable ones stays dense, or None."""
        if id(value) in self._embedded:
            return "tied to an embedding"
        if isinstance(module, _Convolution) and module.groups > 1:
            return "grouped convolution"
        if not isinstance(module, nn.Linear | Conv1D):
            return None
        outputs = value.shape[1] if isinstance(module, Conv1D) else value.shape[0]
        last = path.rsplit(".", 1)[-1]
        if last.startswith("per_layer_"):
            return "projection of per-layer embeddings"
        if last.endswith("_global"):
            return "runs only on tokens that are given global attention"
        if outputs == 1:
            return "gate with a single output"
        if outputs in self._experts and _ROUTER_NAME.match(last):
            return "router: it picks experts"
        if outputs in self._heads and _HEAD_GATE_NAME.match(last):
            return "gate with one output a head"
        return None

    def _weights(
        self, name: str, owners: tuple[nn.Module, ...], parameter: str, value: nn.Parameter
    ) -> Iterator[PrunableWeight]:
        """The matrices of a parameter of `owners[-1]`, whose outer modules are the others."""
        module = owners[-1]
        conditional = _is_conditional(name, owners)
        layout = bare_layout(module, parameter, value)
        if layout is not None:
            yield from _stored(name, module, parameter, layout)
        elif isinstance(module, Conv1D):
            yield PrunableWeight(name, module, parameter, transposed=True, conditional=conditional)
        elif isinstance(module, nn.MultiheadAttention) and parameter == "in_proj_weight":
            yield from _row_groups(name, module, parameter, value, 3, conditional)
        elif isinstance(module, nn.Linear) and value.dim() == 2:
            # Block-diagonal: every group of rows multiplies another part of the input.
            groups = getattr(module, "n_groups", 1)
            groups = groups if isinstance(groups, int) else 1
            yield from _row_groups(name, module, parameter, value, groups, conditional)
        elif isinstance(module, _Convolution):
            yield PrunableWeight(name, module, parameter, conditional=conditional)
        elif value.dim() == 3 and _is_expert(module) and type(module) in self._orientations:
            # Experts that do nothing may be counted in one tensor and left out of the other.
            count = min(p.shape[0] for p in module.parameters(recurse=False) if p.dim() == 3)
            for expert in range(count):
                yield PrunableWeight(
                    f"{name}[{expert}]",
                    module,
                    parameter,
                    index=(expert,),
                    transposed=self._orientations[type(module)],
                    conditional=conditional,
                )


def _why_dense_class(module: nn.Module) -> str | None:
    if isinstance(module, nn.Embedding):
        return "embedding"
    name = type(module).__name__
    for pattern, reason in _DENSE_CLASSES:
        # A mixture-of-experts layer may be named after its router and yet hold the experts.
        if pattern.search(name) and not any(_is_expert(inner) for inner in module.modules()):
            return reason
    return None


def _is_cross_layer(block: nn.Module) -> bool:
    """Whether a layer attends to another modality only, and is skipped where there is none."""
    children = {name for name, _ in block.named_children()}
    return bool(children & _CROSS_NAMES) and "self_attn" not in children


def _is_expert(module: nn.Module) -> bool:
    return "Expert" in type(module).__name__ or hasattr(type(module), "_apply_gate")


def _is_conditional(name: str, owners: tuple[nn.Module, ...]) -> bool:
    """Whether a weight is an expert's, which a router may pass over."""
    parts = name.split(".")
    shared = any("shared" in part for part in parts) or "Shared" in type(owners[-1]).__name__
    return not shared and ("experts" in parts or _is_expert(owners[-1]))


def _stored(
    name: str, module: nn.Module, parameter: str, layout: Layout
) -> Iterator[PrunableWeight]:
    """One weight, or one for each matrix of a stack."""
    stack = range(layout.stored[0]) if len(layout.stored) == 3 else [None]
    for i in stack:
        yield StoredWeight(
            name if i is None else f"{name}[{i}]",
            module,
            parameter,
            index=() if i is None else (i,),
            transposed=layout.transposed,
            conditional=layout.conditional,
            stored=layout.stored,
        )


def _row_groups(
    name: str,
    module: nn.Module,
    parameter: str,
    value: nn.Parameter,
    groups: int,
    conditional: bool,
) -> Iterator[PrunableWeight]:
    """One weight, or one for each of `groups` equal groups of rows."""
    if groups == 1:
        yield PrunableWeight(name, module, parameter, conditional=conditional)
        return
    size = value.shape[0] // groups
    for start in range(0, size * groups, size):
        rows = (start, start + size)
        yield PrunableWeight(
            f"{name}[{start}:{start + size}]", module, parameter, rows=rows, conditional=conditional
        )


def _sizes(config: Any) -> Iterator[tuple[str, int]]:
    """Every integer of a config and its sub-configs, by name."""
    values = config if isinstance(config, dict) else config.to_dict() if config is not None else {}
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _sizes(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(name), value


def _hidden_size(model: nn.Module) -> int:
    """Width of the residual stream of the text model, or 0 where the config does not say."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(text, "hidden_size", 0)
    return size if isinstance(size, int) else 0
