"""Saving in the layout of open_clip's hub repositories, or of transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from atp_core.errors import ModelError
from atp_core.loading import first_line
from atp_core.records import LoadedModel

from ._clip import OpenClipProcessor
from ._quiet import quiet
from ._source import CONFIG_NAME, is_transformers_model

__all__ = ["save"]

_WEIGHTS = "open_clip_model.safetensors"
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


def save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write weights, config, tokenizer and image processor; dtype kept, zeros dense.

    Returns:
        The safetensors files.

    Raises:
        ModelError: the library cannot write this model, or its config is not known.
    """
    try:
        with quiet():
            if is_transformers_model(loaded.model):
                _save_transformers(loaded, directory)
            else:
                _save_open_clip(loaded, directory)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{loaded.source.text} cannot be saved: {first_line(error)}") from error
    return sorted(directory.glob("*.safetensors"))


def _save_transformers(loaded: LoadedModel, directory: Path) -> None:
    model: Any = loaded.model
    model.save_pretrained(directory, max_shard_size="5GB")
    if loaded.processor is not None:
        loaded.processor.save_pretrained(directory)


def _save_open_clip(loaded: LoadedModel, directory: Path) -> None:
    processor: OpenClipProcessor = loaded.processor
    if processor.config is None:
        raise ModelError(
            "a model of open_clip does not know its own config, which is saved with it: pass "
            'processor={"model_cfg": NAME_OR_CONFIG, "tokenizer": TOKENIZER} along with the model'
        )
    config = dict(processor.config)
    told = getattr(loaded.model.visual, "preprocess_cfg", {})
    config.setdefault("preprocess_cfg", {key: told[key] for key in _PREPROCESSING if key in told})
    text = json.dumps(config, indent=2) + "\n"
    (directory / CONFIG_NAME).write_text(text, encoding="utf-8")
    safetensors.torch.save_file(
        _tensors(loaded.model, processor.stored), directory / _WEIGHTS, metadata={"format": "pt"}
    )
    # open_clip's own tokenizer is part of the library and has no files.
    write = getattr(processor.tokenizer, "save_pretrained", None)
    if write is not None:
        write(str(directory))
    elif "hf_tokenizer_name" in config["model_cfg"].get("text_cfg", {}):
        loaded.progress.note(
            f"the tokenizer of {loaded.source.text} could not be had and is not saved; put its "
            "files next to the weights"
        )


def _tensors(model: torch.nn.Module, stored: dict[str, torch.dtype]) -> dict[str, torch.Tensor]:
    """The weights, each in the dtype the source stores it in, none sharing memory."""
    tensors: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, value in model.state_dict().items():
        kept = value.detach().to(stored.get(name, value.dtype)).contiguous()
        if kept.untyped_storage().data_ptr() in taken:
            kept = kept.clone()
        taken.add(kept.untyped_storage().data_ptr())
        tensors[name] = kept
    return tensors
