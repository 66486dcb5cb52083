"""Saving in the layout of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atp_core.errors import ModelError
from atp_core.loading import first_line
from atp_core.records import LoadedModel

from ._quiet import quiet

__all__ = ["save"]


def save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write weights, config, generation config and tokenizer; dtype kept, zeros dense.

    Returns:
        The safetensors files.

    Raises:
        ModelError: transformers cannot write this model.
    """
    model: Any = loaded.model
    stream = loaded.stream
    # What is streamed writes its own shards; transformers writes all but those.
    weights: dict[str, Any] = {} if stream is None else {"state_dict": {}}
    try:
        with quiet():
            model.save_pretrained(directory, max_shard_size="5GB", **weights)
        if stream is not None:
            stream.export(directory)
        if loaded.processor is not None:
            loaded.processor.save_pretrained(directory)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        reason = first_line(error)
        raise ModelError(f"{loaded.source.text} cannot be saved: {reason}") from error
    return sorted(directory.glob("*.safetensors"))
