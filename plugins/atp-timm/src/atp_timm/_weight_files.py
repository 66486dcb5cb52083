"""Reading weight files: safetensors only, held against the model before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from atp_core.errors import ModelError
from atp_core.packed import Weights, weights_file
from atp_core.weights import refuse_pickles

__all__ = ["fill", "find_weights", "mismatch", "shapes_in"]


def find_weights(directory: Path) -> Path:
    """The weight file of a directory in timm's hub layout.

    Raises:
        ModelError: there is none, or only a pickle.
    """
    file = weights_file(directory / "model.safetensors")
    if file is not None:
        return file
    refuse_pickles(directory)
    raise ModelError(f"{directory} has no weights: expected model.safetensors beside config.json")


def shapes_in(weights: Weights) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a file."""
    return {name: tensor.shape for name, tensor in weights.stored.items()}


def fill(model: nn.Module, weights: Weights) -> bool:
    """Load a file whose tensors are exactly those of `model`; False if they are not.

    The model takes on the dtype of the file.

    Raises:
        ModelError: they are not, and the file is packed, so that timm cannot convert it.
    """
    if _difference(model, shapes_in(weights)) is not None:
        if weights.packed:
            raise mismatch(model, weights)
        return False
    tensors = weights.state_dict()
    other = any(tensors[name].dtype != value.dtype for name, value in model.state_dict().items())
    model.load_state_dict(tensors, strict=True, assign=other)
    return True


def mismatch(model: nn.Module, weights: Weights) -> ModelError:
    """The error that tells what of a file does not fit."""
    return ModelError(
        f"{weights.file} does not fit {type(model).__name__}: "
        f"{_difference(model, shapes_in(weights))}; give the weights of this "
        "architecture, or a directory whose config.json describes them"
    )


def _difference(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    wanted: dict[str, Any] = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    missing = [name for name in wanted if name not in shapes]
    extra = [name for name in shapes if name not in wanted]
    other = [n for n in wanted if n in shapes and shapes[n] != wanted[n]]
    told = []
    if missing:
        told.append(f"it lacks {len(missing)} tensors, among them {missing[0]}")
    if extra:
        told.append(f"it has {len(extra)} unexpected tensors, among them {extra[0]}")
    if other:
        first = other[0]
        told.append(f"{first} has shape {list(shapes[first])}, not {list(wanted[first])}")
    return "; ".join(told) or None
