"""Taking units out of a block: for real, or by setting their weights to zero."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from ._groups import Group
from ._layers import narrow, zero

__all__ = ["mask", "remove"]


def remove(block: nn.Module, group: Group, units: torch.Tensor) -> None:
    """Make the layers of `block` narrower by `units` of a group, in place.

    Args:
        block: the module that the group was found in, whole.
        group: whose units go.
        units: which of them, shape (n,).
    """
    if not len(units):
        return
    parts = dict(block.named_modules())
    for member in group.members:
        narrow(parts[member.module], member.side, member.index[units].flatten().tolist())
    for (path, name), by in group.attributes.items():
        setattr(parts[path], name, getattr(parts[path], name) - by * len(units))


def mask(
    block: nn.Module, group: Group, units: torch.Tensor, layers: Collection[str]
) -> None:
    """Set weights of `units` to zero, rows and columns; biases stay, for nothing reads them then.

    Args:
        block: the module that the group was found in, whole.
        group: whose units go.
        units: which of them, shape (n,).
        layers: paths of the layers that are changed. Those that read the units must be among
            them.
    """
    if not len(units):
        return
    parts = dict(block.named_modules())
    for member in group.members:
        if member.module not in layers:
            continue
        zero(parts[member.module], member.side, member.index[units].flatten())
