"""Tensors of a model that its state dict leaves out, such as the tables of rotary positions."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["hidden_state", "owner"]


def hidden_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Non-persistent buffers, and tensors that are plain attributes of modules, by name."""
    known = set(model.state_dict(keep_vars=True))
    found: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, value in {**module._buffers, **vars(module)}.items():
            if isinstance(value, torch.Tensor) and prefix + name not in known:
                found[prefix + name] = value
    return found


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a tensor, and the tensor's name there.

    Raises:
        AttributeError: there is no such module.
    """
    path, _, last = name.rpartition(".")
    return model.get_submodule(path), last
