"""Loading CLIP, SigLIP and SigLIP 2 of transformers."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from atp_core.errors import ModelError
from atp_core.loading import dtype_named, explained, meta_copy
from atp_core.packed import from_packed, open_shards
from atp_core.records import LoadedModel, LoadRequest, Source
from atp_core.weights import describe_files

from ._loading import short_dtype
from ._quiet import quiet

__all__ = ["from_pretrained", "in_memory"]


def from_pretrained(source: Source, name: str, request: LoadRequest) -> LoadedModel:
    """A local directory, or a model of the hub.

    Args:
        name: what `from_pretrained` takes.

    Raises:
        ModelError: the checkpoint is missing, damaged or incomplete.
    """
    directory = Path(name)
    local = directory.is_dir()
    shards = open_shards(directory) if local and not request.meta else []
    packed = [shard for shard in shards if shard.packed]
    trust = {"trust_remote_code": True} if request.trust_remote_code else {}
    shared = {**trust, "revision": request.revision}
    hub = "" if local else "Check the name and the network, or give a directory"
    with explained(source.text, hub), quiet():
        config = transformers.AutoConfig.from_pretrained(name, **shared)
        auto: Any = transformers.AutoModel
        info: dict[str, Any] = {}
        asked = dtype_named(request.dtype)
        if request.meta:
            dtype = asked or getattr(config, "dtype", None) or torch.float32
            with torch.device("meta"):
                model: nn.Module = auto.from_config(config, dtype=dtype, **trust)
        elif packed:
            model, info = from_packed(
                auto, config, directory, packed, dtype=asked or "auto", **trust
            )
        else:
            model, info = auto.from_pretrained(
                name,
                config=config,
                dtype=asked or "auto",
                use_safetensors=True,
                output_loading_info=True,
                **shared,
            )
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise ModelError(
            f"the checkpoint of {source.text} lacks {len(missing)} weights of "
            f"{type(model).__name__}, among them {missing[0]}; nothing is pruned on random weights"
        )
    text = (
        (directory / "config.json").read_bytes()
        if local
        else json.dumps(config.to_dict(), sort_keys=True, default=str).encode()
    )
    return LoadedModel(
        model=model,
        source=source,
        processor=source.processor or _processor(name, **shared),
        base_model=None if local else name,
        provenance={
            "format": "packed" if packed else "safetensors",
            **_facts(model),
            "revision": getattr(config, "_commit_hash", None) or request.revision,
            "config_sha256": hashlib.sha256(text).hexdigest(),
            "weights": describe_files([shard.file for shard in shards]),
        },
        card={"library_name": "transformers"},
    )


def in_memory(source: Source, request: LoadRequest) -> LoadedModel:
    """A model the caller holds; `source.processor` is its processor."""
    model: Any = source.model
    if request.meta:
        model = meta_copy(model)
    elif (dtype := dtype_named(request.dtype)) is not None:
        model = model.to(dtype)
    return LoadedModel(
        model=model,
        source=source,
        processor=source.processor,
        provenance={"format": "memory", **_facts(model)},
        card={"library_name": "transformers"},
    )


def _facts(model: nn.Module) -> dict[str, Any]:
    return {
        "architecture": type(model).__name__,
        "dtype": short_dtype(model),
        "transformers": transformers.__version__,
    }


def _processor(name: str, **options: Any) -> Any:
    """Tokenizer and image processor, or None: a model can be inspected without them."""
    auto: Any = transformers.AutoProcessor
    with contextlib.suppress(Exception), quiet():
        # Whatever is wrong with them is told when data is needed.
        return auto.from_pretrained(name, **options)
    return None
