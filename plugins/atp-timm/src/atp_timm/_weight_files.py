"""Reading weight files: safetensors only, held against the model before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from atp_core.errors import ModelError

__all__ = ["fill", "find_weights", "mismatch", "read_shapes"]

_PICKLES: Final = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".tar")


def find_weights(directory: Path) -> Path:
    """The weight file of a directory in timm's hub layout.

    Raises:
        ModelError: there is none, or only a pickle.
    """
    file = directory / "model.safetensors"
    if file.is_file():
        return file
    pickles = sorted(p for p in directory.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise _refused(pickles[0])
    raise ModelError(f"{directory} has no weights: expected model.safetensors beside config.json")


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file, from its header.

    Raises:
        ModelError: the file is missing, a pickle, truncated, or no safetensors file.
    """
    if not file.is_file():
        raise ModelError(f"there is no weight file {file}; check the path")
    if file.suffix in _PICKLES:
        raise _refused(file)
    try:
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
            return {name: tuple(opened.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{file} is truncated or no safetensors file ({error}); download or write it again"
        ) from None


def fill(model: nn.Module, file: Path, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Load a file whose tensors are exactly those of `model`; False if they are not.

    The model takes on the dtype of the file.
    """
    if _difference(model, shapes) is not None:
        return False
    tensors = load_file(file)
    other = any(tensors[name].dtype != value.dtype for name, value in model.state_dict().items())
    model.load_state_dict(tensors, strict=True, assign=other)
    return True


def mismatch(model: nn.Module, file: Path, shapes: Mapping[str, tuple[int, ...]]) -> ModelError:
    """The error that tells what of a file does not fit."""
    return ModelError(
        f"{file} does not fit {type(model).__name__}: {_difference(model, shapes)}; give the "
        "weights of this architecture, or a directory whose config.json describes them"
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


def _refused(file: Path) -> ModelError:
    return ModelError(
        f"{file} is a pickle, which can run code when loaded, and is refused. Where you trust it, "
        "convert it once: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
        "'model.safetensors')"
    )
