"""Saving a model so that it loads without this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atp_core.errors import ModelError
from atp_core.loading import first_line
from atp_core.records import LoadedModel

from ._files import write_layout
from ._load import LAYOUT, quiet

__all__ = ["save"]


def save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write weights, configs, tokenizer and layout; dtype kept, zeros like any other number.

    Returns:
        The files that hold weights.

    Raises:
        ModelError: transformers cannot write this model.
    """
    model: Any = loaded.model
    try:
        with quiet():
            model.save_pretrained(directory)
            if loaded.processor is not None:
                loaded.processor.save_pretrained(directory)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{loaded.source.text} cannot be saved: {first_line(error)}") from error
    write_layout(loaded.cache[LAYOUT], directory)
    return sorted(directory.glob("*.safetensors"))
