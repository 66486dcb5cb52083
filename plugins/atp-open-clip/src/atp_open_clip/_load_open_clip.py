"""Loading models of open_clip. Weights are read from safetensors, never through torch.load."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import nn

from atp_core.errors import ModelError
from atp_core.loading import dtype_named, explained, meta_copy
from atp_core.packed import Weights, open_weights
from atp_core.records import LoadedModel, LoadRequest, Source
from atp_core.weights import describe_files, read_header

from ._clip import OpenClipProcessor
from ._hub import hub_file
from ._loading import float_dtypes, short_dtype, working_dtype
from ._quiet import quiet
from ._source import CONFIG_NAME, HUB_PREFIX, PREFIX
from ._weight_file import weights_in

__all__ = ["by_name", "from_directory", "from_hub", "in_memory"]

_DEFAULT_VOCABULARY = 49408  # of open_clip's own tokenizer
_WEIGHTS = "open_clip_model.safetensors"


@dataclass(frozen=True)
class _Place:
    """Where open_clip finds a model, and where its weights are.

    Attributes:
        name: what `open_clip.create_model` takes.
        tokenizer: what `open_clip.get_tokenizer` takes.
        config: what ``open_clip_config.json`` holds, or would hold.
        weights: the safetensors file; None for random weights.
        options: further arguments of `create_model`.
        base_model: hub name of the model.
        facts: for the provenance.
    """

    name: str
    tokenizer: str
    config: dict[str, Any]
    weights: Path | None
    options: Mapping[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def by_name(source: Source, request: LoadRequest) -> LoadedModel:
    """``open_clip:NAME``, followed by ``/TAG``, ``=FILE`` or ``@random``.

    Raises:
        ModelError: the architecture or tag is unknown, or the weights cannot be had.
    """
    text = source.text.removeprefix(PREFIX)
    name, equals, file = text.partition("=")
    if equals:
        weights = Path(file).expanduser()
        if not request.meta:
            read_header(weights)
        return _build(source, _known(name, weights), request)
    if text.endswith("@random"):
        place = _known(text.removesuffix("@random"), None, facts={"weights": "random, seed 0"})
        return _build(source, place, request)
    # Names may be written with a slash too (ViT-B/32), as open_clip allows.
    if text.replace("/", "-") in open_clip.list_models():
        if request.meta:
            return _build(source, _known(text, None), request)
        tags = open_clip.list_pretrained_tags_by_model(text.replace("/", "-"))
        forms = [f"{source.text}/TAG with TAG one of {', '.join(tags)}"] if tags else []
        forms += [f"{source.text}=FILE.safetensors", f"{source.text}@random"]
        raise ModelError(
            f"{source.text} names an architecture and no weights; give {', or '.join(forms)}"
        )
    name, _, tag = text.rpartition("/")
    return _build(source, _tagged(name, tag, request), request)


def from_directory(source: Source, directory: Path, request: LoadRequest) -> LoadedModel:
    """A directory in open_clip's hub layout.

    Raises:
        ModelError: its config or weights are missing or damaged.
    """
    config = _read_config(directory / CONFIG_NAME)
    weights = None if request.meta else weights_in(directory)
    local = f"local-dir:{directory}"
    return _build(source, _Place(local, local, config, weights), request)


def from_hub(source: Source, request: LoadRequest) -> LoadedModel:
    """``hf-hub:ORG/NAME``: a repository in open_clip's layout.

    Raises:
        ModelError: it cannot be reached, or has no safetensors.
    """
    name = source.text.removeprefix(HUB_PREFIX)
    file = hub_file(name, CONFIG_NAME, request.revision)
    weights = None if request.meta else hub_file(name, _WEIGHTS, request.revision)
    # Both lie in one snapshot, which has the layout of a local directory.
    place = _Place(
        f"local-dir:{file.parent}",
        source.text,
        _read_config(file),
        weights,
        base_model=name,
        facts={"revision": file.parent.name},
    )
    return _build(source, place, request)


def in_memory(source: Source, request: LoadRequest) -> LoadedModel:
    """A model the caller holds, with what `source.processor` says of it.

    The processor is a tokenizer, a pair (preprocess, tokenizer), or a mapping with "preprocess",
    "tokenizer" and "model_cfg" (the name of an architecture, or its config), which saving needs; or
    the processor of a model that was loaded by this plugin.
    """
    model: Any = source.model
    if request.meta:
        model = meta_copy(model)
    elif (dtype := dtype_named(request.dtype)) is not None:
        model = model.to(dtype)
    tokenizer = None
    if getattr(model, "vocab_size", 0) == _DEFAULT_VOCABULARY:
        tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    return LoadedModel(
        model=model,
        source=source,
        processor=_with(OpenClipProcessor(_preprocess(model), tokenizer), source.processor),
        provenance={"format": "memory", **_facts(model)},
        card={"library_name": "open_clip"},
    )


def _with(processor: OpenClipProcessor, given: Any) -> OpenClipProcessor:
    """`processor`, with what the caller gave in place of what was found."""
    if given is None:
        return processor
    if isinstance(given, OpenClipProcessor):
        return given
    if isinstance(given, tuple | list) and len(given) == 2:
        given = {"preprocess": given[0], "tokenizer": given[1]}
    elif not isinstance(given, Mapping):
        given = {"tokenizer": given}
    config = given.get("model_cfg")
    if isinstance(config, str):
        config = _architecture(config)
    return dataclasses.replace(
        processor,
        preprocess=given.get("preprocess") or processor.preprocess,
        tokenizer=given.get("tokenizer") or processor.tokenizer,
        config=processor.config if config is None else {"model_cfg": config},
    )


def _known(name: str, weights: Path | None, **more: Any) -> _Place:
    name = name.replace("/", "-")
    return _Place(name, name, {"model_cfg": _architecture(name)}, weights, **more)


def _architecture(name: str) -> dict[str, Any]:
    config: dict[str, Any] | None = None
    if name in open_clip.list_models():
        config = open_clip.get_model_config(name)
    if config is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ModelError(
            f"open_clip has no architecture {name!r}.{hint} open_clip.list_models() lists all"
        )
    return config


def _tagged(name: str, tag: str, request: LoadRequest) -> _Place:
    """The weights that open_clip knows as `tag`, which it would read as pickles too."""
    name = name.replace("/", "-")
    config = _architecture(name or tag)
    known = open_clip.get_pretrained_cfg(name, tag)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not known:
        raise ModelError(
            f"{name} has no pretrained weights {tag!r}; open_clip knows "
            f"{', '.join(tags) or 'none'} for it"
        )
    repository, file = os.path.split(known.get("hf_hub") or "")
    if not repository:
        raise ModelError(
            f"the weights {tag!r} of {name} are offered only as a pickle ({known.get('url')}), "
            "which can run code when loaded and is refused; convert them once to safetensors and "
            f"give {PREFIX}{name}=FILE.safetensors"
        )
    weights = None
    if not request.meta:
        safe = Path(file).with_suffix(".safetensors").name if file else _WEIGHTS
        weights = hub_file(repository, safe, request.revision)
    options: dict[str, Any] = {"force_preprocess_cfg": _preprocessing(known)}
    if known.get("quick_gelu") and not config.get("quick_gelu"):
        # Weights trained with this activation give another function with the default one.
        config["quick_gelu"] = True
        options["force_quick_gelu"] = True
    return _Place(
        name, name, {"model_cfg": config}, weights, options, repository, {"pretrained": tag}
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        complete = all(isinstance(config["model_cfg"][part], dict) for part in _TOWERS)
    except (OSError, ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise ModelError(
            f"{path} is not a config of open_clip (an object with model_cfg, and in it vision_cfg "
            "and text_cfg); download or write it again"
        )
    return config  # type: ignore[no-any-return]


_TOWERS = ("vision_cfg", "text_cfg")


def _build(source: Source, place: _Place, request: LoadRequest) -> LoadedModel:
    weights = None
    if place.weights is not None and not request.meta:
        weights = open_weights(place.weights)
    stored = {} if weights is None else {n: one.dtype for n, one in weights.stored.items()}
    dtype = dtype_named(request.dtype)
    device = torch.device("meta" if request.meta else "cpu")
    hub = "Parts of it come from the Hugging Face hub: check the network" * _needs_hub(place.config)
    with explained(source.text, hub), quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with device:
            # Only the architecture: `load_weights` would read pickles, and the pretrained towers
            # would be downloaded to be overwritten.
            model: nn.Module = open_clip.create_model(
                place.name,
                load_weights=False,
                pretrained_image=False,
                pretrained_text=False,
                device=device,
                **place.options,
            )
        model = model.to(dtype or working_dtype(stored.values()))
        if weights is not None:
            _fill(model, weights)
    facts = {**_facts(model), **place.facts}
    if place.weights is not None:
        packed = weights is not None and weights.packed
        facts = {"format": "packed" if packed else "safetensors", **facts}
        if stored:
            facts["weights"] = describe_files([place.weights])
    if request.revision is not None:
        facts.setdefault("revision", request.revision)
    facts["config_sha256"] = hashlib.sha256(
        json.dumps(place.config, sort_keys=True).encode()
    ).hexdigest()
    found = OpenClipProcessor(
        _preprocess(model),
        _tokenizer(place.tokenizer) if _has_tokenizer(place, request) else None,
        place.config,
        {} if dtype is not None else float_dtypes(stored),
    )
    return LoadedModel(
        model=model,
        source=source,
        processor=_with(found, source.processor),
        base_model=place.base_model,
        provenance=facts,
        card={"library_name": "open_clip"},
    )


def _fill(model: nn.Module, weights: Weights) -> None:
    """Read the weights into the model; packed ones have to have the names of its own.

    Raises:
        ModelError: some are missing, left over, or of another shape.
    """
    try:
        keys: Any
        if weights.packed:
            keys = model.load_state_dict(weights.state_dict(), strict=False)
        else:
            keys = open_clip.load_checkpoint(model, str(weights.file), strict=False)
    except (RuntimeError, AssertionError, KeyError) as error:
        # torch lists the tensors of another shape on the lines after the first.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{weights.file} does not fit the architecture: {lines[min(1, len(lines) - 1)].strip()}"
        ) from error
    missing, unexpected = list(keys.missing_keys), list(keys.unexpected_keys)
    if missing or unexpected:
        lacks = f"lacks {len(missing)} weights, among them {missing[0]}" if missing else ""
        extra = (
            f"has {len(unexpected)} that the model does not know, among them {unexpected[0]}"
            if unexpected
            else ""
        )
        told = " and ".join(filter(None, (lacks, extra)))
        raise ModelError(
            f"{weights.file} does not fit the architecture: it {told}; give the weights of this "
            "architecture"
        )


def _facts(model: nn.Module) -> dict[str, Any]:
    return {
        "architecture": type(model).__name__,
        "dtype": short_dtype(model),
        "open_clip": open_clip.__version__,
    }


def _preprocessing(config: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("mean", "std", "interpolation", "resize_mode")
    return {key: config[key] for key in keys if config.get(key) is not None}


def _preprocess(model: Any) -> Any:
    """The image transform of evaluation, as the model itself describes it."""
    config = getattr(model.visual, "preprocess_cfg", None)
    if config is None:
        return None
    return image_transform_v2(PreprocessCfg(**config), is_train=False)


def _tokenizer(name: str) -> Any:
    """The tokenizer, or None: a model can be inspected without one."""
    with contextlib.suppress(Exception), quiet():
        # Whatever is wrong with it is told when text is needed.
        return open_clip.get_tokenizer(name)
    return None


def _has_tokenizer(place: _Place, request: LoadRequest) -> bool:
    """Whether the tokenizer is read: on the meta device only one that lies with the config."""
    return not request.meta or place.name.startswith("local-dir:")


def _needs_hub(config: Mapping[str, Any]) -> bool:
    return "hf_model_name" in config["model_cfg"].get("text_cfg", {})
