"""What goes together: the units of a block, and the rows and columns each of them takes along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

__all__ = ["Group", "Kind", "Member"]

Kind = Literal["heads", "channels"]


@dataclass(frozen=True)
class Member:
    """One side of one module that a group reaches.

    Attributes:
        module: path of the module inside its block.
        side: "out" where rows of its weight go, "in" where columns go.
        index: channels of that side that each unit takes along, shape (units, width).
    """

    module: str
    side: Literal["out", "in"]
    index: torch.Tensor


@dataclass(frozen=True)
class Group:
    """Units of a block of which any number can go, all but one.

    Attributes:
        kind: a unit is an attention head (with the others that share its keys and values), or a
            channel between two layers.
        name: path of what it belongs to, inside the block.
        units: how many there are.
        members: what a unit takes along.
        heads: query heads in a unit; 0 where it is a channel.
        attributes: (path, attribute) → by how much it falls for each unit that goes.
    """

    kind: Kind
    name: str
    units: int
    members: Sequence[Member]
    heads: int = 0
    attributes: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def touches(self, module: str, side: str) -> bool:
        """Whether units take something of this side of a module along."""
        return any(one.module == module and one.side == side for one in self.members)
