"""Packed weights for libraries whose models are made by ``from_pretrained``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ._read import Weights

__all__ = ["from_packed"]


def from_packed(
    auto: Any,
    config: Any,
    directory: Path,
    shards: Sequence[Weights],
    *,
    meta: bool = False,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """What ``auto.from_pretrained(directory, config=config, …)`` gives where weights are packed.

    ``from_pretrained`` reads dense files only; it takes tensors in memory instead, of the class
    that `auto` chooses.

    Args:
        auto: e.g. ``AutoModelForCausalLM`` of transformers.
        config: of the model.
        directory: where the config came from.
        shards: the packed weights.
        meta: on the meta device, without contents.
        **options: "dtype", and "trust_remote_code" where it is allowed.

    Returns:
        The model, and what is told of missing and unexpected weights.

    Raises:
        ModelError: the weights were altered.
    """
    import torch

    trust = {name: options.pop(name) for name in ("trust_remote_code",) if name in options}
    with torch.device("meta"):
        kind = type(auto.from_config(config, **trust))
    tensors: dict[str, torch.Tensor] = {}
    for shard in shards:
        tensors.update(shard.state_dict(meta=meta))
    if not tensors:
        raise ModelError(f"{directory} holds no weights; export it again")
    if meta:
        options["device_map"] = "meta"
    model, info = kind.from_pretrained(
        None, config=config, state_dict=tensors, output_loading_info=True, **options
    )
    # What `from_pretrained` would have read beside the weights.
    model.config.name_or_path = str(directory)
    if getattr(model, "generation_config", None) is not None:
        made = type(model.generation_config)
        if (directory / "generation_config.json").is_file():
            model.generation_config = made.from_pretrained(str(directory))
    return model, info
