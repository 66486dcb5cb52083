"""Loading a model of timm, or telling in one line why that cannot be."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import timm
import torch
from torch import nn

from atp_core.errors import ModelError, UnknownNameError, UsageError
from atp_core.loading import dtype_named, explained, first_line, meta_copy
from atp_core.packed import Weights, open_weights
from atp_core.records import LoadedModel, LoadRequest, Source
from atp_core.weights import describe_files

from ._digits import digits_directory, untrained
from ._lite0 import ARCHITECTURE, LICENSE, lite0_file, lite0_weights
from ._source import DIGITS, EMBEDDED, LITE0, Named, is_hub_layout, parse
from ._weight_files import fill, find_weights, mismatch, shapes_in

__all__ = ["CONFIG", "load", "on_meta"]

CONFIG: Final = "atp_timm.config"
"""Key of the source's own ``config.json`` in `LoadedModel.cache`."""

DEFAULT_SAMPLES: Final = 128
DEFAULT_SEARCH_SAMPLES: Final = 256


def load(source: Source, request: LoadRequest) -> LoadedModel:
    """Load `source` in eval mode on the CPU, or its architecture on the meta device.

    Raises:
        ModelError: the weights are missing, damaged, pickled, or do not fit the architecture.
        UsageError: the source has another form than those known, or names no model of timm.
    """
    dtype = dtype_named(request.dtype)
    loaded = _find(source, request)
    if dtype is not None:
        loaded.model = loaded.model.to(dtype)
    loaded.model.eval()
    _make_contiguous(loaded.model)
    first = next(loaded.model.parameters())
    loaded.provenance |= {
        "architecture": _config(loaded.model).get("architecture", type(loaded.model).__name__),
        "dtype": str(first.dtype).removeprefix("torch."),
        "timm": timm.__version__,
    }
    loaded.compares = True
    if getattr(loaded.model, "num_classes", 0):
        loaded.takes = frozenset({"classes"})
    loaded.defaults = {"samples": DEFAULT_SAMPLES, "search_samples": DEFAULT_SEARCH_SAMPLES}
    loaded.card = {"library_name": "timm", **_front_matter(loaded)}
    return loaded


def _find(source: Source, request: LoadRequest) -> LoadedModel:
    if source.model is not None:
        model = meta_copy(source.model) if request.meta else source.model
        return LoadedModel(model, source, provenance={"format": "memory"})
    scheme, _, name = source.text.partition(":")
    if scheme == "timm":
        return _named(source, parse(name), request)
    if scheme == "hf_hub":
        return _from_hub(source, name, request)
    if scheme == "embedded" and name == DIGITS:
        if request.meta:  # nothing is trained only to be inspected
            model = _build(source, untrained, True)
            return LoadedModel(model, source, provenance={"format": "meta"})
        return _directory(source, digits_directory(), request)
    if scheme == "embedded" and name == LITE0:
        return _lite0(source, request)
    if scheme == "embedded":
        raise UnknownNameError("embedded vision model", name, EMBEDDED)
    path = source.path
    if path is None or not path.is_dir() or not is_hub_layout(path):
        raise ModelError(
            f"{source.text} is no model of timm: expected a directory with a config.json that "
            "names an architecture, or timm:NAME"
        )
    return _directory(source, path, request)


# --- where models come from --------------------------------------------------------------------


def _named(source: Source, named: Named, request: LoadRequest) -> LoadedModel:
    architecture = named.name.partition(".")[0]
    _check_known(architecture)
    if named.weights == "random":
        model = _build(source, lambda: timm.create_model(named.name), request.meta)
        return LoadedModel(
            model, source, provenance={"format": "random weights, seed 0", "random": True}
        )
    if named.weights == "file":
        assert named.file is not None
        return _from_file(source, named.name, named.file, request, None)
    config = timm.models.get_pretrained_cfg(named.name)
    hub = getattr(config, "hf_hub_id", None)
    if request.meta:
        model = _build(source, lambda: timm.create_model(named.name), True)
        return LoadedModel(model, source, base_model=hub, provenance={"format": "meta"})
    if config is None or not hub:
        raise ModelError(
            f"timm has no pretrained weights of {named.name} on the hub; name a tag "
            f"({', '.join(timm.list_pretrained(architecture + '.*')[:3]) or 'it has none'}), give "
            f"timm:{architecture}=FILE.safetensors, or timm:{architecture}@random"
        )
    wanted = getattr(config, "hf_hub_filename", None) or "model.safetensors"
    file = _download(source, hub, _as_safetensors(wanted), request.revision)
    loaded = _from_file(source, named.name, file, request, hub)
    loaded.provenance["revision"] = file.parent.name
    return loaded


def _from_hub(source: Source, name: str, request: LoadRequest) -> LoadedModel:
    repository, _, revision = name.partition("@")
    asked = revision or request.revision
    config = _download(source, repository, "config.json", asked)
    if not is_hub_layout(config.parent):
        raise ModelError(f"{source.text} is no model of timm: its config.json has another layout")
    if not request.meta:
        _download(source, repository, "model.safetensors", asked)
    loaded = _directory(source, config.parent, request)
    loaded.base_model = repository
    loaded.provenance["revision"] = config.parent.name
    return loaded


def _from_file(
    source: Source, name: str, file: Path, request: LoadRequest, base: str | None
) -> LoadedModel:
    """An architecture with the weights of a file; the file tells the number of classes."""
    weights = open_weights(file)
    options = _classes_in(name, shapes_in(weights))
    model = _build(source, lambda: timm.create_model(name, **options), request.meta)
    if not request.meta and not fill(model, weights):
        # Not under the names of the model: timm may know how to convert it.
        overlay = {"file": str(file)}
        with _mismatch_told(model, weights):
            model = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=overlay, **options
            )
    return LoadedModel(model, source, base_model=base, provenance=_provenance([weights]))


def _directory(source: Source, directory: Path, request: LoadRequest) -> LoadedModel:
    """A model in timm's hub layout."""
    text = (directory / "config.json").read_bytes()
    architecture = json.loads(text)["architecture"]
    _check_known(architecture)
    name = f"local-dir:{directory}"
    model = _build(source, lambda: timm.create_model(name), request.meta)
    read = []
    if not request.meta:
        weights = open_weights(find_weights(directory))
        read = [weights]
        if not fill(model, weights):
            # With another number of classes timm would leave the output layer random.
            if getattr(model, "num_classes", None) != _config(model).get("num_classes"):
                raise mismatch(model, weights)
            with _mismatch_told(model, weights):
                model = timm.create_model(name, pretrained=True)
    loaded = LoadedModel(model, source, provenance=_provenance(read))
    loaded.provenance["config_sha256"] = hashlib.sha256(text).hexdigest()
    loaded.cache[CONFIG] = text
    return loaded


def _lite0(source: Source, request: LoadRequest) -> LoadedModel:
    model = _build(source, lambda: timm.create_model(ARCHITECTURE), request.meta)
    if request.meta:
        return LoadedModel(model, source, provenance={"format": "meta"})
    file = lite0_file()
    model.load_state_dict(lite0_weights(model, file))
    loaded = LoadedModel(model, source, base_model=f"timm/{ARCHITECTURE}.in1k")
    loaded.provenance |= {"format": "pickle of known hash", "weights": describe_files([file])}
    loaded.card["license"] = LICENSE
    return loaded


# --- help --------------------------------------------------------------------------------------


def on_meta(create: Callable[[], nn.Module]) -> nn.Module:
    """What `create` makes, on the meta device."""
    try:
        with torch.device("meta"):
            return create()
    except (NotImplementedError, RuntimeError):
        # A few models compute with values while they are built.
        with torch.random.fork_rng(devices=[]):
            return create().to("meta")


def _build(source: Source, create: Callable[[], nn.Module], meta: bool) -> nn.Module:
    """An untrained model; seeded, so that whatever is random in it is the same every time."""
    with torch.random.fork_rng(devices=[]), explained(source.text):
        torch.manual_seed(0)
        return on_meta(create) if meta else create()


def _check_known(architecture: str) -> None:
    if not timm.is_model(architecture):
        names = timm.list_models()
        close = difflib.get_close_matches(architecture, names, n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise UsageError(
            f"timm {timm.__version__} has no model {architecture!r}.{hint} "
            f"timm.list_models() lists all {len(names)}"
        )


def _download(source: Source, repository: str, name: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except Exception as error:
        offline = isinstance(error, LocalEntryNotFoundError)
        if isinstance(error, EntryNotFoundError) and not offline and name.endswith(".safetensors"):
            raise ModelError(
                f"{repository} has no {name} on the hub; weights in other formats are refused: "
                "convert them to safetensors, and give timm:NAME=FILE.safetensors"
            ) from error
        reason = first_line(error)
        raise ModelError(
            f"{source.text} cannot be loaded from the Hugging Face hub: {reason} Check the name "
            "and the network, or give a local directory or timm:NAME=FILE.safetensors"
        ) from error


def _as_safetensors(name: str) -> str:
    if name in ("pytorch_model.bin", "model.safetensors"):
        return "model.safetensors"
    return str(Path(name).with_suffix(".safetensors"))


def _classes_in(name: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The number of classes, where a file's output layer has another one than the default."""
    config = timm.models.get_pretrained_cfg(name)
    layer = getattr(config, "classifier", None)
    shape = shapes.get(f"{layer}.weight") if isinstance(layer, str) else None
    if config is None or shape is None:
        return {}
    usual = config.num_classes + (config.label_offset or 0)
    return {} if shape[0] == usual else {"num_classes": shape[0]}


@contextlib.contextmanager
def _mismatch_told(model: nn.Module, weights: Weights) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError, AttributeError, TypeError, ValueError, IndexError) as error:
        raise mismatch(model, weights) from error


def _make_contiguous(model: nn.Module) -> None:
    """Undo ``channels_last``, under which a kernel has no 2-D view; values stay the same."""
    for parameter in model.parameters():
        if not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()


def _config(model: nn.Module) -> dict[str, Any]:
    """The model's pretrained config, not a copy."""
    found: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    return found if isinstance(found, dict) else {}


def _front_matter(loaded: LoadedModel) -> dict[str, Any]:
    classifies = bool(getattr(loaded.model, "num_classes", 0))
    task = "image-classification" if classifies else "image-feature-extraction"
    front: dict[str, Any] = {
        "pipeline_tag": task,
        "tags": [task, "timm"],
    }
    known = loaded.card.get("license") or _config(loaded.model).get("license")
    return {**front, "license": known} if known else front


def _provenance(read: Sequence[Weights]) -> dict[str, Any]:
    packed = any(weights.packed for weights in read)
    return {
        "format": ("packed" if packed else "safetensors") if read else "meta",
        "weights": describe_files([weights.file for weights in read]),
    }
