"""Loading a vision-language model and its processor, or telling in one line why that cannot be."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from torch import nn

from atp_core.errors import ModelError
from atp_core.loading import dtype_named, explained, first_line
from atp_core.packed import from_packed, open_shards
from atp_core.records import LoadedModel, LoadRequest, Source
from atp_core.streamable import hub_shards, real_buffers, store_of
from atp_core.weights import describe_files

from ._quiet import quiet
from ._source import DIGITS, is_hub_id

__all__ = ["DEFAULTS", "load", "processor_of"]

DEFAULTS: Final = {"samples": 64, "search_samples": 64}
"""Calibration and search samples where none are asked for."""

_CONVERT: Final = (
    "Where you trust it, convert it once with "
    "AutoModelForImageTextToText.from_pretrained(DIR).save_pretrained(NEW)"
)
_HUB: Final = (
    "It is no local directory, and the Hugging Face hub did not give it: check the name and the "
    "network, or give a directory"
)


def load(source: Source, request: LoadRequest) -> LoadedModel:
    """Load `source` in eval mode on the CPU, or its architecture on the meta device.

    To be streamed, it comes with a store of its weights.

    Experts run one by one ("eager"), so that what each of them multiplies can be seen; that is
    the same function, and is not written to the saved config.

    Raises:
        ModelError: the checkpoint is missing, damaged, incomplete, quantized or unknown, or has
            no processor.
    """
    dtype = dtype_named(request.dtype) or "auto"
    if source.model is not None:
        return _in_memory(source, request, dtype)
    name = _place(source)
    directory = Path(name) if Path(name).is_dir() else None
    shards = open_shards(directory, _CONVERT) if directory and not request.meta else []
    if request.stream and directory is None:
        with explained(source.text, _HUB):
            shards = hub_shards(name, request.revision)
    packed = [shard for shard in shards if shard.packed]
    trust = {"trust_remote_code": True} if request.trust_remote_code else {}
    shared: dict[str, Any] = {**trust, "revision": request.revision}
    with explained(source.text, "" if directory else _HUB), quiet():
        config = transformers.AutoConfig.from_pretrained(name, **shared)
        _refuse_quantized(config, source)
        auto: Any = transformers.AutoModelForImageTextToText
        info: dict[str, Any] = {}
        if request.meta:
            with torch.device("meta"):
                model = auto.from_config(config, dtype=_stated(config, dtype), **trust)
        elif directory is not None and packed:
            model, info = from_packed(
                auto, config, directory, packed, meta=request.stream, dtype=dtype, **trust
            )
        else:
            model, info = auto.from_pretrained(
                name,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                **({"device_map": "meta"} if request.stream else {}),
                **shared,
            )
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise ModelError(
            f"the checkpoint of {source.text} lacks {len(missing)} weights of "
            f"{type(model).__name__}, among them {missing[0]}; nothing is pruned on random weights"
        )
    store = None
    if request.stream:
        store = store_of(model, shards)
        real_buffers(model)
    loaded = LoadedModel(
        model=_ready(model),
        source=source,
        store=store,
        processor=source.processor or _processor(name, source, optional=request.meta, **shared),
        base_model=source.text if directory is None else _named_base(directory),
        provenance={
            "format": "packed" if packed else "safetensors",
            "architecture": type(model).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "revision": getattr(config, "_commit_hash", None) or request.revision,
            "config_sha256": _config_digest(directory, config),
            "weights": describe_files([shard.file for shard in shards]),
            "transformers": transformers.__version__,
        },
    )
    return _described(loaded)


def processor_of(loaded: LoadedModel) -> Any:
    """The model's processor.

    Raises:
        ModelError: the model came without one, or with one for images or text alone.
    """
    if not _is_whole(loaded.processor):
        raise ModelError(
            f"{loaded.source.text} has no processor of images and text: pass processor=PROCESSOR "
            "(what AutoProcessor.from_pretrained gives) along with a model in memory"
        )
    return loaded.processor


def _is_whole(processor: Any) -> bool:
    return hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")


def _place(source: Source) -> str:
    """Directory or hub name for `from_pretrained`."""
    if source.text == f"embedded:{DIGITS}":
        from ._digits import directory

        return str(directory())
    path = source.path
    if path is None:
        if not is_hub_id(source.text):
            raise ModelError(f"there is no directory {source.text!r}, and no such hub model")
        return source.text
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} is no model of transformers: expected a config.json")
    return str(path)


def _in_memory(source: Source, request: LoadRequest, dtype: Any) -> LoadedModel:
    model: nn.Module = source.model
    name = str(getattr(model.config, "_name_or_path", "") or "")
    if request.meta:
        with torch.device("meta"):
            model = type(model)(copy.deepcopy(model.config))
    elif dtype != "auto":
        model = model.to(dtype)
    processor = source.processor
    if processor is None and Path(name).is_dir():
        processor = _processor(name, source, optional=True)
    loaded = LoadedModel(
        model=_ready(model),
        source=source,
        processor=processor,
        base_model=name if is_hub_id(name) and not Path(name).exists() else None,
        provenance={
            "format": "memory",
            "architecture": type(model).__name__,
            "transformers": transformers.__version__,
        },
    )
    return _described(loaded)


def _described(loaded: LoadedModel) -> LoadedModel:
    """With the default sizes of its data and the front matter of its model card."""
    loaded.defaults = dict(DEFAULTS)
    loaded.takes = frozenset(["seqlen", "templates"])
    loaded.card = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["image-text-to-text", str(getattr(loaded.model.config, "model_type", "llava"))],
    }
    return loaded


def _ready(model: nn.Module) -> nn.Module:
    # Also where transformers says it cannot be set: of a composite model it then sets the parts.
    switch = getattr(model, "set_experts_implementation", None)
    if switch is not None:
        switch("eager")
    return model.eval()


def _stated(config: Any, dtype: Any) -> Any:
    """The dtype asked for, else the one the config states."""
    return dtype if dtype != "auto" else getattr(config, "dtype", None) or torch.float32


def _refuse_quantized(config: Any, source: Source) -> None:
    found = getattr(config, "quantization_config", None)
    if found is not None:
        method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
        raise ModelError(
            f"{source.text} is quantized ({getattr(method, 'value', method)}): its packed weights "
            "cannot be pruned; prune the model it was made from, and quantize the result"
        )


def _processor(name: str, source: Source, *, optional: bool, **options: Any) -> Any:
    """The processor; None where it cannot be had and is `optional`."""
    try:
        auto: Any = transformers.AutoProcessor
        with quiet():
            found = auto.from_pretrained(name, **options)
    except Exception as error:
        # Whatever stands in its way, the remedy is the same.
        reason = first_line(error)
    else:
        if _is_whole(found):
            return found
        reason = f"what is there is a {type(found).__name__}, for one modality alone"
    if optional:
        return None
    raise ModelError(
        f"{source.text} has no processor of images and text ({reason}); put its "
        "processor_config.json, preprocessor_config.json and tokenizer files next to the model"
    )


def _named_base(directory: Path) -> str | None:
    """The hub name a local copy says it was saved from."""
    try:
        name = json.loads((directory / "config.json").read_text("utf-8")).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) and is_hub_id(name) else None


def _config_digest(directory: Path | None, config: Any) -> str:
    local = directory / "config.json" if directory is not None else None
    text = local.read_bytes() if local is not None else config.to_json_string().encode()
    return hashlib.sha256(text).hexdigest()
