"""Channels between two layers of a block as groups, found through Torch-Pruning's graph."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import nn

from ._groups import Group, Member
from ._layers import channels, customized, is_conv1d

__all__ = ["Call", "channel_groups", "run"]

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a block's forward."""


def run(block: nn.Module, call: Call) -> Any:
    """What a block gives for a call."""
    return block(*call[0], **call[1])


def channel_groups(block: nn.Module, call: Call, taken: Collection[str]) -> Iterator[Group]:
    """Candidates: the channels that layers of `block` hand to others inside it.

    Which of them are free to go is for the caller to try out: those of the residual are among
    them.

    Args:
        block: the block; a copy of it is traced.
        call: arguments of its forward.
        taken: paths of layers whose outputs are something else, such as heads.

    Raises:
        Exception: whatever Torch-Pruning raises where it cannot follow the forward pass.
    """
    twin = copy.deepcopy(block).requires_grad_(True)
    graph = _graph(twin, call)
    paths = {id(part): path for path, part in twin.named_modules()}
    seen: set[tuple[str, str]] = set()
    for path, layer in twin.named_modules():
        if path in taken or (path, "out") in seen or layer not in graph.module2node:
            continue
        if not (isinstance(layer, nn.Linear | nn.Conv2d) or is_conv1d(layer)):
            continue
        group = _group(graph, layer, path, paths)
        if group is not None:
            seen |= {(one.module, one.side) for one in group.members}
            yield group


def _graph(twin: nn.Module, call: Call) -> Any:
    """The dependency graph of a block, traced on one call."""

    def forward(model: nn.Module, inputs: Any) -> Any:
        return run(model, inputs)

    args = tuple(
        value.detach().clone().requires_grad_() if _is_float(value) else value for value in call[0]
    )
    with torch.enable_grad(), warnings.catch_warnings():
        # It warns of parameters that belong to no layer, which are looked at below.
        warnings.simplefilter("ignore")
        return tp.DependencyGraph().build_dependency(
            twin,
            example_inputs=(args, call[1]),
            forward_fn=forward,
            customized_pruners=customized(twin),
            verbose=False,
        )


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _group(graph: Any, layer: nn.Module, path: str, paths: dict[int, str]) -> Group | None:
    """The group of a layer's outputs; None where it is not all of evenly shared channels."""
    count = channels(layer, "out")
    if count < 2:
        return None
    prune: Callable[..., Any] = graph.get_pruner_of_module(layer).prune_out_channels
    found = graph.get_pruning_group(layer, prune, idxs=list(range(count)))
    members: dict[tuple[str, str], Member] = {}
    for position in range(len(found)):
        item = found[position]
        module = item.dep.target.module
        if id(module) not in paths:
            if isinstance(module, nn.Parameter):
                return None  # a bare parameter along the channels: nothing says how to cut it
            continue  # an operation
        at = paths[id(module)]
        outputs = graph.is_out_channel_pruning_fn(item.dep.handler) or _one_sided(module)
        side: Literal["out", "in"] = "out" if outputs else "in"
        index = _by_unit(item.idxs, item.root_idxs, count)
        if index is None:
            return None
        members.setdefault((at, side), Member(at, side, index))
    if not any(one.side == "in" for one in members.values()):
        return None  # nothing inside the block reads them
    return Group("channels", path, count, tuple(members.values()))


def _one_sided(module: nn.Module) -> bool:
    """Whether inputs and outputs of a module are the same channels: norms, depthwise kernels."""
    if isinstance(module, nn.Conv2d):
        return module.groups == module.out_channels and module.groups > 1
    return not (isinstance(module, nn.Linear) or is_conv1d(module))


def _by_unit(index: list[int], roots: list[int], units: int) -> torch.Tensor | None:
    """Which channels belong to each unit, shape (units, width); None where it is uneven."""
    owned: list[list[int]] = [[] for _ in range(units)]
    for channel, root in zip(index, roots, strict=True):
        owned[root].append(channel)
    widths = {len(one) for one in owned}
    if len(widths) != 1 or widths == {0}:
        return None
    return torch.tensor(owned)
