"""The zeros of a pruned model: which there are, and that they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch

from atp_core.errors import ModelError, UsageError
from atp_core.records import Chain, PrunableWeight

__all__ = ["check_kept", "share_of", "weights_of", "zeros_of"]

_LEAST: Final = 0.01
"""A dense model has a few zeros by chance; below this share of them nothing was pruned."""


def weights_of(chains: Sequence[Chain]) -> list[PrunableWeight]:
    """The prunable weights of all chains, in order."""
    return [weight for chain in chains for block in chain.blocks for weight in block.weights]


def zeros_of(chains: Sequence[Chain], source: str) -> dict[str, torch.Tensor]:
    """Where the prunable weights are zero: name → shape (out_features, in_features), on the CPU.

    Args:
        chains: of the model.
        source: what it is called, for the message.

    Raises:
        UsageError: hardly any weight is zero.
    """
    zeros = {weight.name: (weight.matrix() == 0).cpu() for weight in weights_of(chains)}
    share = share_of(zeros)
    if share < _LEAST:
        raise UsageError(
            f"nothing is pruned in {source}: {share:.2%} of its prunable weights are zero. Give a "
            "directory that `atp prune` wrote; to train a dense model, use its own library"
        )
    return zeros


def share_of(zeros: Mapping[str, torch.Tensor]) -> float:
    """Share of the weights that is zero."""
    total = sum(one.numel() for one in zeros.values())
    return sum(int(one.sum()) for one in zeros.values()) / total if total else 0.0


def check_kept(zeros: Mapping[str, torch.Tensor], chains: Sequence[Chain], what: str) -> float:
    """Make sure that whatever was zero still is, exactly.

    Args:
        zeros: as `zeros_of` gave them.
        chains: of the model now.
        what: what the model is called, for the message.

    Returns:
        The share of the prunable weights that is zero now.

    Raises:
        ModelError: a weight is missing, has another shape, or has fewer zeros.
    """
    now = {weight.name: weight for weight in weights_of(chains)}
    found: dict[str, torch.Tensor] = {}
    for name, before in zeros.items():
        if name not in now:
            raise ModelError(f"{what} has no weight {name} any more; nothing was written")
        after = (now[name].matrix() == 0).cpu()
        if after.shape != before.shape:
            raise ModelError(
                f"{name} of {what} has shape {tuple(after.shape)} and had {tuple(before.shape)}; "
                "nothing was written"
            )
        lost = int((before & ~after).sum())
        if lost:
            raise ModelError(
                f"{lost} zeros of {name} are zero no more in {what}; nothing was written. This is "
                "a fault of atp-prune-tune or of the model's plugin: please report it"
            )
        found[name] = after
    return share_of(found)
