"""Loading a model from a directory, or taking over one that is in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from atp_core.errors import ModelError
from atp_core.loading import dtype_named, explained, meta_copy
from atp_core.records import LoadedModel, LoadRequest, Source
from atp_core.weights import describe_files, find_shards, read_header

from ._files import plain_layout, read_layout
from ._recognize import EMBEDDED, MODEL_TYPES, directory_of, recognize

__all__ = ["LAYOUT", "load", "quiet"]

LAYOUT = "atp_sentence_encoder.layout"
"""Where `LoadedModel.cache` keeps the model's `Layout`."""


def load(source: Source, request: LoadRequest) -> LoadedModel:
    """Load `source` in eval mode on the CPU, or without its weights on the meta device.

    Raises:
        ModelError: a file is missing or damaged, or the architecture is not supported.
    """
    loaded = _from_memory(source, request) if source.model is not None else _read(source, request)
    loaded.model.eval()
    loaded.provenance |= {
        "architecture": type(loaded.model).__name__,
        "transformers": transformers.__version__,
    }
    # How much data is taken where the user does not say.
    loaded.defaults = {"samples": 128, "search_samples": 64}
    # Front matter of the model card.
    loaded.card |= {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
    }
    # Core evaluates the dense model first, so that there is something to compare with.
    loaded.compares = True
    return loaded


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and warnings of transformers: core shows a bar of its own."""
    log: Any = transformers.logging
    shown, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if shown:
            log.enable_progress_bar()


def _from_memory(source: Source, request: LoadRequest) -> LoadedModel:
    model: Any = source.model
    if recognize(source) is None:
        raise ModelError(
            f"{source.text} is no encoder without a head of {', '.join(MODEL_TYPES)}; give "
            "model.base_model, or a directory"
        )
    layout = plain_layout(model.config.hidden_size)
    dtype = dtype_named(request.dtype)
    if request.meta:
        model = meta_copy(model)
    if dtype is not None:
        model = model.to(dtype)
    return LoadedModel(
        model,
        source,
        processor=source.processor,
        provenance={"format": "memory"},
        cache={LAYOUT: layout},
    )


def _read(source: Source, request: LoadRequest) -> LoadedModel:
    directory = directory_of(source)
    layout = read_layout(directory)
    files = [] if request.meta else find_shards(directory)
    for file in files:
        read_header(file)  # a truncated file is told before anything is loaded
    with explained(source.text, "Check its config.json and its tokenizer."), quiet():
        model = _model(directory, request)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory)
    embedded = source.text == EMBEDDED
    return LoadedModel(
        model,
        source,
        processor=tokenizer,
        base_model="sentence-transformers/all-MiniLM-L6-v2" if embedded else None,
        provenance={"format": "safetensors", "weights": describe_files(files)},
        cache={LAYOUT: layout},
        card={"license": "apache-2.0"} if embedded else {},
    )


def _model(directory: Path, request: LoadRequest) -> Any:
    config: Any = transformers.AutoConfig.from_pretrained(directory)
    if config.model_type not in MODEL_TYPES:
        raise ModelError(
            f"{directory} holds a {config.model_type}; known are {', '.join(MODEL_TYPES)}"
        )
    auto: Any = transformers.AutoModel
    dtype = dtype_named(request.dtype)
    if request.meta:
        with torch.device("meta"):
            return auto.from_config(config, dtype=dtype or config.dtype or torch.float32)
    model, info = auto.from_pretrained(
        directory,
        config=config,
        dtype=dtype or "auto",
        use_safetensors=True,
        output_loading_info=True,
    )
    missing = sorted(info["missing_keys"])
    if any(name.startswith("pooler.") for name in missing):
        # Many such checkpoints have no pooler, which nothing uses; neither shall what is saved.
        model.pooler = None
    if lost := [name for name in missing if not name.startswith("pooler.")]:
        raise ModelError(f"{directory} lacks {len(lost)} weights, among them {lost[0]}")
    return model
