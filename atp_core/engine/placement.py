"""Where a block runs: only the block at hand is on the device, the rest of the model stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..errors import UsageError
from ..records import Chain

__all__ = ["Placement", "resolve_device"]


def resolve_device(name: str) -> torch.device:
    """The torch device called `name`; "auto" is CUDA, then MPS, where there is one, else the CPU.

    Raises:
        UsageError: no such device, or it is not available.
    """
    if name == "auto":
        has_mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device {name!r} cannot be used: {reason}. Use --device cpu or --device auto."
        ) from None
    if str(device) == "cuda":
        # With its number, it compares equal to the device of what is already there.
        return torch.device("cuda", torch.cuda.current_device())
    return device


class Placement:
    """Moves a block to the device it runs on, its inputs with it, and its outputs back.

    Args:
        device: where blocks run; None leaves everything where it is.
        home: where the model and the activations between blocks live.
    """

    def __init__(self, device: torch.device | None, home: torch.device | None = None) -> None:
        self.home = home or torch.device("cpu")
        self.device = device
        self.moves = device is not None and device != self.home

    @classmethod
    def of(cls, chains: Sequence[Chain], device: torch.device | None) -> Placement:
        """Placement of a located model; one on several devices already is where it should be.

        Where the model is streamed, core has said so in the chains.
        """
        if chains[0].placement is not None:
            return chains[0].placement
        homes = {
            weight.tensor.device
            for chain in chains
            for block in chain.blocks
            for weight in block.weights
        }
        home = homes.pop() if len(homes) == 1 else None
        return cls(device if home is not None else None, home)

    @contextmanager
    def on_device(self, module: nn.Module) -> Iterator[None]:
        """Keep `module` on the device inside the context."""
        if not self.moves:
            yield
            return
        assert self.device is not None
        self._move(module, self.device)
        try:
            yield
        finally:
            self._move(module, self.home)

    def keep(self, module: nn.Module) -> None:
        """Hold on to what was done to the weights of a module that is on the device."""

    def park(self, tree: Any) -> None:
        """Put activations where they wait for their block; the tensors stay the same objects."""

    def to_device(self, tree: Any) -> Any:
        """`tree` with every tensor on the device."""
        return self._map(tree, self.device)

    def to_home(self, tree: Any) -> Any:
        """`tree` with every tensor back home."""
        return self._map(tree, self.home)

    def _map(self, tree: Any, device: torch.device | None) -> Any:
        if not self.moves:
            return tree
        return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), tree)

    @staticmethod
    def _move(module: nn.Module, device: torch.device) -> None:
        # Parameters set under inference mode would be unusable outside it.
        with torch.inference_mode(False), torch.no_grad():
            module.to(device)
