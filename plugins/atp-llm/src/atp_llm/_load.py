"""Loading a language model and its tokenizer, or telling in one line why that cannot be."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from atp_core.errors import ModelError
from atp_core.loading import dtype_named, explained
from atp_core.packed import Weights, from_packed, open_shards
from atp_core.records import DataRequest, LoadedModel, LoadRequest, Source, Split
from atp_core.streamable import hub_shards, real_buffers, store_of
from atp_core.weights import describe_files

from ._calibrate import default_samples, default_search_samples
from ._inputs import is_encoder_decoder
from ._quiet import quiet
from ._source import EMBEDDED, embedded_file, family, gguf_file, is_hub_id
from ._verify import verify_gguf
from ._windows import seqlen_for

__all__ = ["load"]

_CONVERT = (
    "Where you trust it, convert it once with "
    "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)"
)


@dataclass(frozen=True)
class _Place:
    """Where transformers finds a model.

    Attributes:
        name: directory or hub name.
        gguf: name of the GGUF file in it.
        files: local files that hold weights.
        shards: the same, where they are safetensors.
        base_model: hub name of the model.
        license: of the model, where it is known.
    """

    name: str
    gguf: str | None = None
    files: tuple[Path, ...] = ()
    shards: Sequence[Weights] = ()
    base_model: str | None = None
    license: str | None = None

    @property
    def packed(self) -> bool:
        return any(shard.packed for shard in self.shards)

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.gguf is None else {"gguf_file": self.gguf}


def load(source: Source, request: LoadRequest) -> LoadedModel:
    """Load `source` in eval mode on the CPU, or its architecture on the meta device.

    To be streamed, it comes with a store of its weights.

    GGUF weights are dequantized: to float32, or to the file's own float type, where `dtype` is
    "auto"; and weights in compressed-tensors to what their codes stand for. Experts run one by one
    ("eager"), so that what each of them multiplies can be seen; that is the same function, and is
    not written to the saved config.

    Raises:
        ModelError: the checkpoint is missing, damaged, incomplete, quantized, or unknown.
        UnknownNameError: there is no embedded model of this name.
    """
    dtype = dtype_named(request.dtype) or "auto"
    if source.model is not None:
        return _in_memory(source, request, dtype)
    place = _find(source, verify=not request.meta)
    if request.stream:
        place = _with_files(place, source, request.revision)
    trust = {"trust_remote_code": True} if request.trust_remote_code else {}
    shared = {**place.options, **trust, "revision": request.revision}
    with explained(source.text, _remedy(place)):
        config = transformers.AutoConfig.from_pretrained(place.name, **shared)
        _check_quantization(config, source, place, request)
        auto = _auto_class(config, source)
        info: dict[str, Any] = {}
        if request.meta:
            model = _empty(auto, config, dtype, trust)
        elif place.packed:
            with quiet():
                model, info = from_packed(
                    auto,
                    config,
                    Path(place.name),
                    place.shards,
                    meta=request.stream,
                    dtype=dtype,
                    **trust,
                )
        else:
            options = {**shared, **_dequantize(place), "dtype": dtype}
            with quiet():
                model, info = auto.from_pretrained(
                    place.name,
                    config=config,
                    use_safetensors=None if place.gguf else True,
                    output_loading_info=True,
                    **({"device_map": "meta"} if request.stream else {}),
                    **options,
                )
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise ModelError(
            f"the checkpoint of {source.text} lacks {len(missing)} weights of "
            f"{type(model).__name__}, among them {missing[0]}; nothing is pruned on random weights"
        )
    _forget_quantization(model)
    store = None
    if request.stream:
        store = store_of(model, place.shards)
        real_buffers(model)
    loaded = LoadedModel(
        model=_ready(model),
        source=source,
        processor=source.processor or _tokenizer(place.name, **shared),
        base_model=place.base_model,
        provenance=_provenance(place, model, config, request),
        store=store,
    )
    return _described(loaded, place.license)


def _in_memory(source: Source, request: LoadRequest, dtype: Any) -> LoadedModel:
    model: nn.Module = source.model
    name = str(getattr(model.config, "_name_or_path", "") or "")
    if request.meta:
        with torch.device("meta"):
            model = type(model)(copy.deepcopy(model.config))
    elif dtype != "auto":
        model = model.to(dtype)
    processor = source.processor
    if processor is None and name and (Path(name).is_dir() or is_hub_id(name)):
        processor = _tokenizer(name, local_files_only=True)
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


def _described(loaded: LoadedModel, license_name: str | None = None) -> LoadedModel:
    """With the default sizes of its data and the front matter of its model card."""
    nothing = DataRequest()
    samples = default_samples(loaded, nothing)
    loaded.defaults = {
        "samples": samples,
        "search_samples": default_search_samples(samples),
        "seqlen": seqlen_for(loaded, nothing),
    }
    loaded.takes = frozenset(["seqlen"])
    # A search goes by perplexity, which needs no other model.
    loaded.compares = frozenset[Split](["report"])
    loaded.card = {"library_name": "transformers"}
    if not is_encoder_decoder(loaded.model):
        loaded.card["pipeline_tag"] = "text-generation"
    if license_name is not None:
        loaded.card["license"] = license_name
    return loaded


def _find(source: Source, *, verify: bool) -> _Place:
    """Where the model is; local weight files are checked if `verify`."""
    scheme, colon, name = source.text.partition(":")
    if colon and scheme == "embedded":
        file, known = embedded_file(name), EMBEDDED[name]
        if verify:
            verify_gguf(file)
        return _Place(
            str(file.parent),
            file.name,
            (file,),
            base_model=known.hub_name,
            license=known.license,
        )
    path = source.path
    if path is None:
        if not is_hub_id(source.text):
            raise ModelError(f"there is no file or directory {source.text!r}, and no hub model")
        return _Place(source.text, base_model=source.text)
    if path.is_dir() and (path / "config.json").is_file():
        shards = open_shards(path, _CONVERT) if verify else []
        return _Place(
            str(path),
            files=tuple(shard.file for shard in shards),
            shards=shards,
            base_model=_named_base(path),
        )
    found = gguf_file(path)
    if found is not None:
        if verify:
            verify_gguf(found)
        return _Place(str(found.parent), found.name, (found,))
    if path.is_dir() and any(path.glob("*.gguf")):
        raise ModelError(f"{path} holds several GGUF files; name the one to load")
    expected = "a config.json" if path.is_dir() else "a GGUF file or a directory"
    raise ModelError(f"{path} is no model of transformers: expected {expected}")


def _with_files(place: _Place, source: Source, revision: str | None) -> _Place:
    """A place whose weights are in local safetensors files, fetched if need be.

    Raises:
        ModelError: they are not.
    """
    if place.gguf is not None:
        raise ModelError(
            f"{source.text} is a GGUF file, whose weights cannot be read one by one; leave out "
            "--max-memory, or convert it to safetensors"
        )
    if place.files:
        return place
    with explained(source.text, _remedy(place)):
        shards = hub_shards(place.name, revision)
    return replace(place, files=tuple(shard.file for shard in shards), shards=shards)


def _named_base(directory: Path) -> str | None:
    """The hub name a local copy says it was saved from."""
    try:
        name = json.loads((directory / "config.json").read_text("utf-8")).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) and is_hub_id(name) else None


def _auto_class(config: Any, source: Source) -> Any:
    kind = family(config.to_dict())
    if kind is None:
        # A GGUF file names no architecture class, and some configs of the hub neither.
        kind = "seq2seq" if getattr(config, "is_encoder_decoder", False) else "causal"
        table = (
            transformers.MODEL_FOR_CAUSAL_LM_MAPPING
            if kind == "causal"
            else transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
        )
        if type(config) not in table or getattr(config, "vision_config", None) is not None:
            raise ModelError(
                f"{source.text} ({config.model_type}) is not a language model that "
                "AutoModelForCausalLM or AutoModelForSeq2SeqLM can load"
            )
    return (
        transformers.AutoModelForCausalLM
        if kind == "causal"
        else transformers.AutoModelForSeq2SeqLM
    )


def _empty(auto: Any, config: Any, dtype: Any, trust: dict[str, Any]) -> nn.Module:
    if dtype == "auto":
        dtype = getattr(config, "dtype", None) or torch.float32
    with torch.device("meta"):
        model: nn.Module = auto.from_config(config, dtype=dtype, **trust)
    return model


def _dequantize(place: _Place) -> dict[str, Any]:
    """Ask for dense weights where transformers could keep GGUF's blocks (5.24 and later)."""
    config = getattr(transformers, "GgufConfig", None)
    if place.gguf is None or config is None:
        return {}
    return {"quantization_config": config(dequantize=True)}


def _check_quantization(
    config: Any, source: Source, place: _Place, request: LoadRequest
) -> None:
    """Have weights in compressed-tensors made dense while they are loaded; refuse others.

    Raises:
        ModelError: the weights are packed in a way that has no dense form here, activations are
            quantized too, or the model was to be streamed.
    """
    found = getattr(config, "quantization_config", None)
    if found is None or place.gguf is not None:
        return
    settings = found if isinstance(found, dict) else found.to_dict()
    method = settings.get("quant_method")
    method = getattr(method, "value", method)
    groups = settings.get("config_groups") or {}
    weights_alone = not any(
        isinstance(group, dict) and group.get("input_activations") for group in groups.values()
    )
    if method != "compressed-tensors" or not weights_alone:
        raise ModelError(
            f"{source.text} is quantized ({method}): its packed weights cannot be pruned; prune "
            "the model it was made from, and quantize the result"
        )
    if request.stream:
        raise ModelError(
            f"{source.text} is quantized ({method}) and cannot be streamed; leave out --max-memory"
        )
    if find_spec("compressed_tensors") is None:
        raise ModelError(
            f"{source.text} is quantized ({method}): pip install compressed-tensors to read it"
        )
    # Early releases know the older name only, and later ones warn of it.
    known = inspect.signature(transformers.CompressedTensorsConfig).parameters
    dense = {"dequantize": True} if "dequantize" in known else {"run_compressed": False}
    config.quantization_config = {**settings, **dense}


def _forget_quantization(model: nn.Module) -> None:
    """Drop what says "quantized" of a dequantized model: transformers would refuse to save it."""
    for owner, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if getattr(owner, name, None) is not None:
            delattr(owner, name)
    for name in ("is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)


def _ready(model: nn.Module) -> nn.Module:
    # Also where transformers says it cannot be set: of a composite model it then sets the parts.
    switch = getattr(model, "set_experts_implementation", None)
    if switch is not None:
        switch("eager")
    return model.eval()


def _tokenizer(name: str, **options: Any) -> Any:
    """The tokenizer, or None: a model can be inspected without one."""
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(name, **options)
    except Exception:
        # Whatever is wrong with it is told when text is needed (`_windows.tokenizer_of`).
        return None


def _remedy(place: _Place) -> str:
    """What to do where a model cannot be loaded."""
    if Path(place.name).exists():
        return ""
    return (
        "It is no local file or directory, and the Hugging Face hub did not give it: check the "
        "name and the network, or give a directory"
    )


def _provenance(
    place: _Place, model: nn.Module, config: Any, request: LoadRequest
) -> dict[str, Any]:
    local = Path(place.name) / "config.json"
    text = local.read_bytes() if local.is_file() else config.to_json_string().encode()
    return {
        "format": "gguf" if place.gguf else "packed" if place.packed else "safetensors",
        "architecture": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "revision": getattr(config, "_commit_hash", None) or request.revision,
        "config_sha256": hashlib.sha256(text).hexdigest(),
        "weights": describe_files(place.files),
        "transformers": transformers.__version__,
    }
