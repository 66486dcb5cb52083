"""Loading a smaller model: built whole without weights, narrowed, and filled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from atp_core._plugins import Plugins, build_manager
from atp_core.errors import ModelError
from atp_core.loading import dtype_named
from atp_core.records import LoadedModel, LoadRequest, Source

from ._layers import is_conv1d
from ._layout import MODEL, RECORD, VERSION, WEIGHTS
from ._state import hidden_state, owner

__all__ = ["Underlying", "load", "load_slim", "underlying"]

_KEY = "atp_structured.underlying"
"""Key of `Underlying` in `LoadedModel.cache`."""

Underlying = tuple[Plugins, str, Path]
"""The plugins, the one that handles the whole model, and the directory of the smaller one."""


def load(directory: str | Path, *, dtype: str = "auto", trust_remote_code: bool = False) -> Any:
    """The smaller model in a directory that `slim` wrote, in eval mode on the CPU.

    Args:
        directory: what `slim` wrote.
        dtype: of the weights; "auto" is that of the file.
        trust_remote_code: run code that ships with the checkpoint.

    Returns:
        The `torch.nn.Module`.

    Raises:
        ModelError: the directory is incomplete or damaged, or its files do not belong together.
        PluginError: the plugin that handles the model is not installed.
    """
    request = LoadRequest(dtype=dtype, trust_remote_code=trust_remote_code)
    return load_slim(Source(str(directory)), request).model


def load_slim(source: Source, request: LoadRequest) -> LoadedModel:
    """The same with what its plugin needs to go on working with it; on the meta device if asked.

    A smaller model cannot be streamed: it comes without a store.

    Raises:
        ModelError: as `load`.
        PluginError: as `load`.
    """
    directory = source.path
    if directory is None or not (directory / RECORD).is_file():
        raise ModelError(f"{source.text} has no {RECORD}; give a directory that `atp slim` wrote")
    record = _record(directory / RECORD)
    plugins = build_manager()
    inner = Source(str(directory / MODEL))
    plugin = plugins.recognize(inner, plugin=record["plugin"]).plugin
    whole = LoadRequest(
        dtype=request.dtype, meta=True, trust_remote_code=request.trust_remote_code
    )
    loaded: LoadedModel = plugins.caller("atp_load", plugin)(source=inner, request=whole)
    _set_attributes(loaded.model, record["attributes"], directory / RECORD)
    _fill(loaded.model, directory / WEIGHTS, request)
    loaded.model.eval()
    loaded.source = source
    loaded.provenance |= {"format": "slim", "slim_of": record.get("source")}
    loaded.cache[_KEY] = (plugins, plugin, directory)
    return loaded


def underlying(loaded: LoadedModel) -> Underlying:
    """Who handles the whole model that a smaller one was loaded from.

    Raises:
        ModelError: the directory that it was loaded from is gone.
    """
    # Core hands on copies of a loaded model without what plugins keep in it.
    if _KEY not in loaded.cache:
        directory = loaded.source.path
        if directory is None:
            raise ModelError(f"{loaded.source.text} is gone, which the model was loaded from")
        loaded.cache[_KEY] = (build_manager(), _record(directory / RECORD)["plugin"], directory)
    known: Underlying = loaded.cache[_KEY]
    return known


def _record(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}); write the model again") from None
    data: dict[str, Any] = found if isinstance(found, dict) else {}
    if data.get("version") != VERSION or not isinstance(data.get("plugin"), str):
        raise ModelError(
            f"{file} is not of the form that this version reads ({VERSION}); write the model "
            "again, or install the version that wrote it"
        )
    if not isinstance(data.get("attributes"), dict):
        raise ModelError(f"{file} does not say which sizes changed; write the model again")
    return data


def _set_attributes(model: nn.Module, changed: Mapping[str, Any], file: Path) -> None:
    """Set the sizes that modules know of themselves.

    Raises:
        ModelError: the model has no such module or size.
    """
    for name, attributes in changed.items():
        try:
            module = model.get_submodule(name)
            for key, value in attributes.items():
                before = getattr(module, key)
                made = tuple(value) if isinstance(value, list) else value
                if not _smaller(made, before):
                    raise ValueError(f"{key} was {before!r} and cannot become {made!r}")
                setattr(module, key, made)
        except (AttributeError, ValueError) as error:
            raise ModelError(
                f"{file} does not fit the model: {name or 'the model'}: {error}; are both of one "
                "directory?"
            ) from None


def _smaller(made: Any, before: Any) -> bool:
    if isinstance(made, tuple) and isinstance(before, tuple):
        return len(made) == len(before) and all(map(_smaller, made, before))
    numbers = isinstance(made, int) and isinstance(before, int)
    return numbers and not isinstance(before, bool) and 0 < made <= before


def _fill(model: nn.Module, file: Path, request: LoadRequest) -> None:
    """Put the tensors of a file in place of those of the whole model.

    Raises:
        ModelError: the file cannot be read, or tensors are missing, left over or of a wrong shape.
    """
    hidden = hidden_state(model)
    wanted = {**model.state_dict(keep_vars=True), **hidden}
    asked = dtype_named(request.dtype)
    try:
        with safe_open(file, framework="pt") as opened:
            told = opened.metadata() or {}
            shared = json.loads(told.get("shared", "{}"))
            extra = set(json.loads(told.get("hidden", "[]")))
            names = set(opened.keys())
            missing = sorted(set(wanted) - names - set(shared))
            unexpected = sorted((names | set(shared)) - set(wanted) - extra)
            if missing or unexpected:
                which = f"lacks {missing[0]}" if missing else f"has {unexpected[0]} besides"
                raise ModelError(f"{file} does not fit the model in {MODEL}/: it {which}")
            made: dict[str, Any] = {}
            for name, before in wanted.items():
                place = shared.get(name, name)
                if place not in made:
                    made[place] = _tensor(opened, place, before, file, request.meta)
                    if asked is not None and name not in hidden and before.is_floating_point():
                        made[place] = made[place].to(asked)
                    if isinstance(before, nn.Parameter):
                        made[place] = nn.Parameter(made[place], before.requires_grad)
                module, last = owner(model, name)
                setattr(module, last, made[place])
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}; write the model again") from None
    _check_layers(model, file)


def _tensor(
    opened: Any, name: str, before: torch.Tensor, file: Path, meta: bool
) -> torch.Tensor:
    shape = tuple(opened.get_slice(name).get_shape())
    fits = len(shape) == before.dim() and all(
        0 < now <= whole or now == whole for now, whole in zip(shape, before.shape, strict=True)
    )
    if not fits:
        raise ModelError(
            f"{name} in {file} has the shape {list(shape)}, which does not come of "
            f"{list(before.shape)}"
        )
    if meta:
        return torch.empty(shape, dtype=before.dtype, device="meta")
    found: torch.Tensor = opened.get_tensor(name)
    return found


def _check_layers(model: nn.Module, file: Path) -> None:
    """That every layer has the sizes it says it has.

    Raises:
        ModelError: one has not; names it.
    """
    for name, layer in model.named_modules():
        one: Any = layer
        if isinstance(layer, nn.Linear):
            says = (layer.out_features, layer.in_features)
        elif is_conv1d(layer):
            says = (one.nx, one.nf)
        elif isinstance(layer, nn.Conv2d):
            says = (layer.out_channels, layer.in_channels // layer.groups)
        else:
            continue
        has = tuple(one.weight.shape[:2])
        bias = getattr(one, "bias", None)
        outputs = says[1] if is_conv1d(layer) else says[0]
        if has != says or (bias is not None and len(bias) != outputs):
            raise ModelError(
                f"{name} in {file} has a weight of shape {list(has)}, and {RECORD} says "
                f"{list(says)}; are both of one directory?"
            )
