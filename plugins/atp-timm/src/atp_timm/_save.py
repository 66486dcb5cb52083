"""Saving in timm's hub layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from atp_core.errors import ModelError
from atp_core.loading import first_line
from atp_core.records import LoadedModel

from ._load import CONFIG, on_meta

__all__ = ["save"]


def save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write ``model.safetensors`` and ``config.json``; dtype kept, zeros dense.

    The config of a local directory is kept as it was; of other models timm writes it, with the
    arguments that the model was created with.

    Returns:
        The safetensors file.

    Raises:
        ModelError: timm could not build this model again from its config.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.json"
    if CONFIG in loaded.cache:
        config.write_bytes(loaded.cache[CONFIG])
    else:
        _write_config(loaded, config)
    _check(loaded, directory)
    weights = directory / "model.safetensors"
    save_file(_tensors(loaded.model), weights, metadata={"format": "pt"})
    return [weights]


def _write_config(loaded: LoadedModel, config: Path) -> None:
    """The config as timm writes it; label names go where timm looks for them."""
    model: Any = loaded.model
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    try:
        save_config_for_hf(model, str(config), {"label_names": names} if names else None)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{loaded.source.text} cannot be saved: {error}") from error


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of the model; what two names share is written under both."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        own = value.detach().to("cpu").contiguous()
        address = own.untyped_storage().data_ptr()
        tensors[name] = own.clone() if address in seen else own
        seen.add(address)
    return tensors


def _check(loaded: LoadedModel, directory: Path) -> None:
    """That timm builds this very architecture from the config."""
    try:
        again = on_meta(lambda: timm.create_model(f"local-dir:{directory}", pretrained=False))
        theirs = {name: tuple(value.shape) for name, value in again.state_dict().items()}
        reason = "another architecture comes of it"
    except Exception as error:
        theirs, reason = {}, first_line(error)
    if theirs != {name: tuple(t.shape) for name, t in loaded.model.state_dict().items()}:
        raise ModelError(
            f"{loaded.source.text} cannot be saved so that timm builds it again from its config "
            f"({reason}); make the model with timm.create_model(NAME, …), which notes its "
            "arguments, and prune that"
        )
