"""Low-rank updates: PEFT makes, initializes and scales them, one for each prunable weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from atp_core.errors import PluginError
from atp_core.records import PrunableWeight

__all__ = ["ADAPTER", "adapters_for", "check_peft"]

ADAPTER = "default"
"""Name that PEFT knows the updates by."""


def check_peft() -> None:
    """Make sure that PEFT is there.

    Raises:
        PluginError: it is not.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise PluginError(
            f"--mode lora needs PEFT, which cannot be imported ({error}): "
            "pip install 'atp-prune[tune]', or use --mode full"
        ) from None


def adapters_for(
    weights: Sequence[PrunableWeight], *, rank: int, alpha: float, seed: int
) -> list[Any]:
    """A `peft.tuners.lora.Linear` for each weight, float32; its update begins at zero.

    A weight may be any 2-D view: of a linear layer, of a convolution, or of a part of a fused
    tensor. PEFT gets each as a linear layer of its own, which shares the memory of the view, so
    that all of them are adapted alike.

    Args:
        weights: to adapt.
        rank: r.
        alpha: the update is alpha / r · B A.
        seed: of the random A; B is zero.
    """
    from peft import LoraConfig, inject_adapter_in_model

    bank = nn.Module()
    names = [f"weight{i}" for i in range(len(weights))]
    for name, weight in zip(names, weights, strict=True):
        out_features, in_features = weight.shape
        layer = nn.Linear(in_features, out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(weight.matrix(), requires_grad=False)
        bank.add_module(name, layer)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, bank, adapter_name=ADAPTER)
    made: list[Any] = [getattr(bank, name) for name in names]
    for layer in made:
        for part in (layer.lora_A, layer.lora_B):
            part.float().requires_grad_(True)
    return made
