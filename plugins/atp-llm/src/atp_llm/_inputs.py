"""What a language model's forward takes for a batch of windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["batches_of", "device_of", "inputs_for", "is_encoder_decoder"]


def batches_of(ids: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Windows, shape (windows, seqlen), in batches of at most `size`."""
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether the model has an encoder besides its decoder."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def device_of(model: nn.Module) -> torch.device:
    """Where the model takes its tokens."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    return embedding.weight.device  # type: ignore[no-any-return]


def inputs_for(model: nn.Module, ids: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Arguments of the forward call, and the tokens its logits predict.

    A decoder gets the whole window and predicts every token but the first. With an encoder, that
    one gets the first half of the window and the decoder predicts the second half.

    Args:
        ids: windows, shape (batch, seqlen).

    Returns:
        The arguments, and targets of shape (batch, predicted), which belong to the first
        `predicted` positions of the logits.
    """
    if not is_encoder_decoder(model):
        return {"input_ids": ids}, ids[:, 1:]
    half = ids.shape[1] // 2
    first, second = ids[:, :half], ids[:, half:]
    start = torch.full_like(second[:, :1], _decoder_start(model.config))
    return {
        "input_ids": first.contiguous(),
        "decoder_input_ids": torch.cat([start, second[:, :-1]], dim=1),
    }, second


def _decoder_start(config: Any) -> int:
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    return 0
