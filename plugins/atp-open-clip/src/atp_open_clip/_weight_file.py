"""Which file of a directory in open_clip's layout holds the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from atp_core.errors import ModelError
from atp_core.packed import weights_file
from atp_core.weights import refuse_pickles

__all__ = ["weights_in"]

_NAMES: Final = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


def weights_in(directory: Path) -> Path:
    """The weight file of a directory in open_clip's layout.

    Raises:
        ModelError: there is none, several without a known name, or only pickles.
    """
    for name in _NAMES:
        found = weights_file(directory / name)
        if found is not None:
            return found
    files = sorted(directory.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    if files:
        raise ModelError(
            f"{directory} holds {len(files)} safetensors files and none is called {_NAMES[0]}; "
            "rename the one that holds the weights"
        )
    refuse_pickles(directory)
    raise ModelError(f"{directory} has no weights: expected {_NAMES[0]}")
