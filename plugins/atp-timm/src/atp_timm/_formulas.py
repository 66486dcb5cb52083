"""Formulas for one value an image."""

from __future__ import annotations

import torch

__all__ = ["feature_errors", "kl_divergences", "ranks"]


def ranks(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """How many classes score higher than the right one; of equal scores the first wins."""
    own = outputs.gather(1, target[:, None])
    place = torch.arange(outputs.shape[1])
    ahead = (outputs > own) | ((outputs == own) & (place < target[:, None]))
    return ahead.sum(-1)


def kl_divergences(dense: torch.Tensor, pruned: torch.Tensor) -> torch.Tensor:
    """KL(dense ‖ pruned) of the classes of each image, in nats, from outputs (images, classes)."""
    log_p, log_q = dense.double().log_softmax(-1), pruned.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def feature_errors(dense: torch.Tensor, pruned: torch.Tensor) -> torch.Tensor:
    """‖pruned − dense‖² / ‖dense‖² of the features of each image, shape (images, features)."""
    norm = dense.double().pow(2).sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return (pruned.double() - dense.double()).pow(2).sum(-1) / norm
