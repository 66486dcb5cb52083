"""Saving in the layout of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atp_core.errors import ModelError
from atp_core.loading import first_line
from atp_core.records import LoadedModel
from atp_core.streamable import save_transformers

from ._quiet import quiet

__all__ = ["save"]


def save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write weights, config, generation config and processor; dtype kept, zeros dense.

    Returns:
        The safetensors files.

    Raises:
        ModelError: transformers cannot write this model.
    """
    try:
        with quiet():
            save_transformers(loaded, directory)
            if loaded.processor is not None:
                loaded.processor.save_pretrained(directory)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        reason = first_line(error)
        raise ModelError(f"{loaded.source.text} cannot be saved: {reason}") from error
    return sorted(directory.glob("*.safetensors"))
