"""What locating weights takes in every plugin: what a block holds, and what holds no block."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from torch import nn

from .records import PrunableWeight

__all__ = ["Found", "outside"]


@dataclass
class Found:
    """What a block holds.

    Attributes:
        weights: its prunable weights, in order of registration.
        dense: what stays dense, by name, and why.
    """

    weights: list[PrunableWeight] = field(default_factory=list)
    dense: dict[str, str] = field(default_factory=dict)


def outside(
    name: str, module: nn.Module, blocks: Collection[int]
) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """The largest parts of `module` that hold no block, by qualified name, in order.

    Parameters of modules that do hold one are parts of their own; modules without parameters are
    left out.

    Args:
        name: qualified name of `module`; "" for the whole model.
        module: where to look; no block itself.
        blocks: ids of the blocks' modules.
    """
    if not any(id(part) in blocks for part in module.modules()):
        yield name, module
        return
    for parameter, value in module.named_parameters(recurse=False):
        yield f"{name}.{parameter}" if name else parameter, value
    for child, inner in module.named_children():
        if id(inner) not in blocks and next(inner.parameters(), None) is not None:
            yield from outside(f"{name}.{child}" if name else child, inner, blocks)
