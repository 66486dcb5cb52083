"""What a model of transformers needs to be streamed: its weights by name, and its buffers.

For plugins; transformers is imported when it is first needed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import ModelError
from .packed import Weights, open_shards
from .records import LoadedModel
from .store import WeightStore

__all__ = ["hub_shards", "real_buffers", "save_transformers", "store_of"]


def hub_shards(name: str, revision: str | None) -> Sequence[Weights]:
    """The weight files of a repository on the Hugging Face hub, fetched if need be.

    Raises:
        ModelError: it has no safetensors files, or one is damaged.
    """
    from huggingface_hub import snapshot_download

    patterns = ["model*.safetensors", "model.safetensors.index.json"]
    directory = snapshot_download(name, revision=revision, allow_patterns=patterns)
    return open_shards(Path(directory))


def save_transformers(loaded: LoadedModel, directory: Path) -> None:
    """`save_pretrained`, for a model in memory or one that is streamed.

    What is streamed writes its own shards; transformers writes all but those.
    """
    model: Any = loaded.model
    if loaded.stream is None:
        model.save_pretrained(directory, max_shard_size="5GB")
    else:
        model.save_pretrained(directory, state_dict={})
        loaded.stream.export(directory)


def real_buffers(model: nn.Module) -> None:
    """Compute what no checkpoint stores, such as the frequencies of rotary embeddings.

    transformers does so itself wherever it loads a model, by `_init_weights` of the module.

    Raises:
        ModelError: a buffer stays without numbers.
    """
    for name, module in model.named_modules():
        own = [
            key
            for key, value in module._buffers.items()
            if value is not None and value.is_meta and key in module._non_persistent_buffers_set
        ]
        if not own:
            continue
        for key in own:
            module._buffers[key] = _unset(module._buffers[key])
        with torch.no_grad():
            _owner(model, name)._init_weights(module)
        for key in own:
            value = module._buffers[key]
            if value is None or torch.equal(value, _unset(value)) or _nan(value):
                raise ModelError(
                    f"the buffer {name}.{key} is in no checkpoint and {type(model).__name__} does "
                    "not say how to compute it; prune this model in memory, without --max-memory"
                )


def _unset(like: Any) -> torch.Tensor:
    """A tensor on the CPU of a value that no buffer has."""
    value: float = math.nan
    if not like.is_floating_point():
        value = False if like.dtype == torch.bool else torch.iinfo(like.dtype).min
    return torch.full(like.shape, value, dtype=like.dtype)


def _nan(value: torch.Tensor) -> bool:
    return value.is_floating_point() and bool(value.isnan().any())


def _owner(model: nn.Module, name: str) -> Any:
    """The model, or the innermost model inside it, that initializes a module."""
    found: Any = model
    for i, part in enumerate(name.split("."), 1):
        inner = model.get_submodule(".".join(name.split(".")[:i])) if part else model
        if hasattr(inner, "_init_weights") and hasattr(inner, "config"):
            found = inner
    return found


def store_of(model: Any, shards: Sequence[Weights]) -> WeightStore:
    """The weights of a model on the meta device, as transformers would convert them.

    Checkpoints may use other names than the model does, and keep in many tensors what it fuses
    into one, such as the experts of a mixture. transformers lists these conversions with the
    model when it has loaded one; they are applied here to the tensors of one weight at a time.

    Args:
        model: from `from_pretrained` with ``device_map="meta"``.
        shards: its safetensors files.

    Raises:
        ModelError: a file is damaged, or two stored tensors are the same weight.
    """
    from transformers import core_model_loading as loading

    transforms = getattr(model, "_weight_conversions", None) or []
    stored = [name for shard in shards for name in shard.stored]
    state = model.state_dict()
    renamings = [one for one in transforms if isinstance(one, loading.WeightRenaming)]
    converters = [one for one in transforms if isinstance(one, loading.WeightConverter)]
    if not transforms and all(name in stored for name in state):
        return WeightStore(shards)
    of_pattern = {key: one for one in converters for key in one.source_patterns}
    parts: dict[str, list[str]] = {}
    recipes: dict[str, list[tuple[str, str]]] = {}
    for name in sorted(stored, key=loading.dot_natural_key):
        target, pattern = loading.rename_source_key(
            name, renamings, converters, model.base_model_prefix, state
        )
        parts.setdefault(target, []).append(name)
        if pattern is not None:
            recipes.setdefault(target, []).append((name, pattern))
    if any(len(own) > 1 and name not in recipes for name, own in parts.items()):
        raise ModelError("two tensors of the checkpoint are the same weight of the model")

    def join(name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        steps = recipes.get(name)
        if steps is None:
            return tensors[parts.get(name, [name])[0]]
        converter: Any = copy.deepcopy(of_pattern[steps[0][1]])
        for source, pattern in steps:
            converter.add_tensor(name, source, pattern, tensors[source])
        made = converter.convert(name, model=model, config=model.config)[name]
        return made[0] if isinstance(made, list) else made  # type: ignore[no-any-return]

    def split(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        found: Mapping[str, torch.Tensor] = loading.revert_weight_conversion(model, dict(tensors))
        return found

    return WeightStore(shards, parts=parts, join=join, split=split)
