"""Models with zeros for the tests."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

__all__ = ["prune"]

M = TypeVar("M", bound=nn.Module)


def prune(model: M, sparsity: float = 0.7) -> M:
    """Zero the smallest weights of every linear layer, and bare projections of attention."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "emb" not in name and "head" not in name:
            limit = parameter.detach().abs().float().flatten().quantile(sparsity)
            parameter.data[parameter.detach().abs().float() <= limit] = 0
    return model.eval().requires_grad_(False)
