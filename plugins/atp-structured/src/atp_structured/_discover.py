"""Which groups of a block are free to go, tried out on the block itself."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from atp_core.loading import first_line
from atp_core.records import Block, Calibration, Chain

from ._channels import Call, channel_groups, run
from ._groups import Group
from ._heads import head_groups, stubborn
from ._remove import mask, remove

__all__ = ["Cuttable", "discover"]

# Sums over fewer terms round differently: by this share of the largest output, in single precision.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Cuttable:
    """A block, and the groups of which units can go.

    Attributes:
        chain: name of its chain.
        block: the block.
        groups: what can go.
        layers: paths of the layers whose weights are prunable.
        notes: what cannot go, and why.
    """

    chain: str
    block: Block
    groups: Sequence[Group]
    layers: frozenset[str]
    notes: tuple[str, ...] = ()


def discover(chains: Sequence[Chain], calibration: Calibration) -> list[Cuttable]:
    """The groups of every block, each tried out on the block's inputs of one batch.

    A group counts where the block without some of its units gives the same as the block with the
    weights of these units at zero. That keeps the residual, which cannot go inside one block
    alone, and whatever mixes channels in a way that a graph does not show.
    """
    blocks = [(chain.name, block) for chain in chains for block in chain.blocks]
    calls = _calls([block for _, block in blocks], calibration)
    return [_cuttable(chain, block, calls[block.name]) for chain, block in blocks]


def _calls(blocks: Iterable[Block], calibration: Calibration) -> dict[str, Call]:
    """What each block is called with for the first batch."""
    calls: dict[str, Call] = {}
    handles = []
    for block in blocks:

        def keep(_: nn.Module, args: Any, kwargs: Any, name: str = block.name) -> None:
            calls.setdefault(name, (args, kwargs))

        handles.append(block.module.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        # No inference mode: its tensors could not be traced later.
        with torch.no_grad():
            calibration.forward(calibration.batches[0])
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _cuttable(chain: str, block: Block, call: Call) -> Cuttable:
    notes: list[str] = list(stubborn(block.module))
    owners = {id(weight.module) for weight in block.weights if weight.parameter == "weight"}
    located = {path for path, part in block.module.named_modules() if id(part) in owners}
    groups: list[Group] = []
    heads = list(head_groups(block.module))
    for group in heads:
        reason = _refusal(block, group, located, call)
        if reason is None:
            groups.append(group)
        else:
            notes.append(f"heads of {group.name or 'the block'} stay: {reason}")
    attention = [one.name for one in heads] + [
        path
        for path, part in block.module.named_modules()
        if isinstance(part, nn.MultiheadAttention)
    ]
    taken = {path for path, _ in block.module.named_modules() if _within(path, attention)}
    try:
        candidates = list(channel_groups(block.module, call, taken))
    except Exception as error:
        # Whatever a tracer stumbles over; heads can go all the same.
        notes.append(f"channels stay: the forward pass cannot be traced ({first_line(error)})")
        candidates = []
    for group in candidates:
        if _clashes(group, groups) or _refusal(block, group, located, call) is not None:
            continue  # the residual, mostly
        groups.append(group)
    if not groups:
        notes.append("nothing inside it can go")
    elif idle := _untouched(groups, located, attention):
        notes.append(f"{', '.join(idle)} keep their width")
    return Cuttable(chain, block, groups, frozenset(located), tuple(notes))


def _untouched(groups: Sequence[Group], located: set[str], told: Sequence[str]) -> list[str]:
    """Layers that no group makes narrower, but for those of attention, which is told already."""
    touched = {member.module for group in groups for member in group.members}
    return sorted(path for path in located - touched if not _within(path, told))


def _within(path: str, parents: Sequence[str]) -> bool:
    return any(path == one or path.startswith(f"{one}.") for one in parents)


def _clashes(group: Group, others: Sequence[Group]) -> bool:
    return any(
        other.touches(member.module, member.side) for member in group.members for other in others
    )


def _refusal(block: Block, group: Group, located: set[str], call: Call) -> str | None:
    """Why a group cannot go; None where it can."""
    if group.units < 2:
        return "there is only one"
    readers = [one.module for one in group.members if one.side == "in"]
    strange = [path for path in readers if path not in located]
    if strange:
        return f"{strange[0]} reads them and is no prunable weight"
    dropped = torch.tensor([0, group.units - 1] if group.units > 2 else [0])
    # In the precision of a model of 16 bits, much would pass for rounding.
    thin, masked = copy.deepcopy(block.module).float(), copy.deepcopy(block.module).float()
    single: Call = (_single(call[0]), _single(call[1]))
    try:
        remove(thin, group, dropped)
        mask(masked, group, dropped, located)
        with torch.no_grad():
            left, right = _tensors(run(thin, single)), _tensors(run(masked, single))
    except Exception as error:
        return f"the block fails without one ({first_line(error)})"
    if len(left) != len(right) or not all(map(_same, left, right)):
        return "the block without some is not the block with their weights at zero"
    return None


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.shape != right.shape:
        return False
    if not left.is_floating_point():
        return bool((left == right).all())
    if not left.numel():
        return True
    largest = max(float(right.abs().max()), 1e-6)
    return float((left - right).abs().max()) <= _ROUNDING * largest


def _single(value: Any) -> Any:
    """Tensors of floats in single precision, also those in tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if type(value) in (tuple, list):
        return type(value)(_single(one) for one in value)
    if type(value) is dict:
        return {key: _single(one) for key, one in value.items()}
    return value


def _tensors(output: Any) -> list[torch.Tensor]:
    """The tensors in what a block gives; weights of attention, which shrink, are left out."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, tuple | list) and output:
        return _tensors(output[0])
    return []
