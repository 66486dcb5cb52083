"""Loading a CLIP model with what surrounds it, or telling in one line why that cannot be."""

from __future__ import annotations

from atp_core.errors import ModelError
from atp_core.records import LoadedModel, LoadRequest, Source

from ._data import SAMPLES, SEARCH_SAMPLES
from ._source import (
    CONFIG_NAME,
    DIGITS,
    HUB_PREFIX,
    PREFIX,
    is_hub_name,
    is_open_clip_directory,
    is_transformers_directory,
    is_transformers_model,
)

__all__ = ["load"]


def load(source: Source, request: LoadRequest) -> LoadedModel:
    """Load `source` in eval mode on the CPU, or its architecture on the meta device.

    Raises:
        ModelError: the checkpoint is missing, damaged, incomplete, a pickle, or unknown.
    """
    loaded = _load(source, request)
    loaded.model.eval()
    loaded.compares = True
    loaded.takes = frozenset(["classes", "templates"])
    loaded.defaults = {"samples": SAMPLES, "search_samples": SEARCH_SAMPLES}
    loaded.card.setdefault("tags", ["clip"])
    loaded.card.setdefault("pipeline_tag", "zero-shot-image-classification")
    return loaded


def _load(source: Source, request: LoadRequest) -> LoadedModel:
    from . import _load_open_clip, _load_transformers

    if source.model is not None:
        if is_transformers_model(source.model):
            return _load_transformers.in_memory(source, request)
        return _load_open_clip.in_memory(source, request)
    if source.text.startswith(PREFIX):
        return _load_open_clip.by_name(source, request)
    if source.text.startswith(HUB_PREFIX):
        return _load_open_clip.from_hub(source, request)
    if source.text == DIGITS:
        from ._digits import directory

        return _load_open_clip.from_directory(source, directory(), request)
    path = source.path
    if path is not None and is_open_clip_directory(path):
        return _load_open_clip.from_directory(source, path, request)
    if path is not None and is_transformers_directory(path):
        return _load_transformers.from_pretrained(source, str(path), request)
    if path is None and is_hub_name(source.text):
        return _load_transformers.from_pretrained(source, source.text, request)
    raise ModelError(
        f"{source.text} is no CLIP model: expected a directory with {CONFIG_NAME} or with the "
        f"config.json of a CLIP model of transformers, {PREFIX}NAME or {HUB_PREFIX}ORG/NAME"
    )
