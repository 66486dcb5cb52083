"""What a model of timm takes: size, channels and preprocessing, from its own config."""

from __future__ import annotations

from typing import Any

import timm.data
import torch
from torch import nn

__all__ = ["data_config", "device_of", "dtype_of", "input_size"]


def data_config(model: nn.Module) -> dict[str, Any]:
    """Preprocessing of `model` at test time: input_size (C, H, W), mean, std, crop, …

    The size is that of the model as it was built, which may differ from its pretrained config.
    """
    config: dict[str, Any] = timm.data.resolve_input_data_config(model)
    return config


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of an image as the model takes it."""
    channels, height, width = data_config(model)["input_size"]
    return int(channels), int(height), int(width)


def device_of(model: nn.Module) -> torch.device:
    """Where the model is."""
    return next(model.parameters()).device


def dtype_of(model: nn.Module) -> torch.dtype:
    """What the model computes in."""
    return next(model.parameters()).dtype
