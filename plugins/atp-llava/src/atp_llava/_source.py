"""Which sources are vision-language models, told from names and config files alone."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from atp_core.records import Recognition, Source

__all__ = ["DIGITS", "is_hub_id", "is_vision_language", "recognize"]

DIGITS: Final = "digits-llava"
"""Name of the embedded model."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NAMED_LIKE = re.compile(
    r"llava|paligemma|idefics|smolvlm|internvl|pixtral|moondream|florence|kosmos|instructblip|"
    r"molmo|ovis|got[-_.]ocr|(^|[-_.])(vl|vlm|vision|aria|blip2?)([-_.0-9]|$)",
    re.IGNORECASE,
)
_MAPPING: Final = "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"


def recognize(source: Source) -> Recognition | None:
    """Say whether `source` is a vision-language model, how surely, and why; None where it is not.

    Confidence: 1 for what the config or class itself says, 0.6 for a hub name that names a known
    family, 0.07 for any other hub name (only its config, which is not downloaded here, could tell).
    """
    if source.model is not None:
        return _recognize_model(source.model)
    if source.text == f"embedded:{DIGITS}":
        return Recognition(1.0, f"{DIGITS} is a small LLaVA trained on handwritten digits")
    path = source.path
    if path is not None:
        return _recognize_directory(path) if path.is_dir() else None
    if not is_hub_id(source.text):
        return None
    if _NAMED_LIKE.search(source.text.rpartition("/")[2]):
        return Recognition(0.6, "named like a vision-language model on the Hugging Face hub")
    return Recognition(0.07, "looks like the name of a model on the Hugging Face hub")


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form of a hub name: ``org/name``."""
    return _HUB_ID.fullmatch(text) is not None


def is_vision_language(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` describes a model that reads images and text and writes text.

    Some architectures of transformers' mapping are language models too: the config must have a
    vision tower, or an image tokenizer in its place.
    """
    table = _table()
    architectures = config.get("architectures") or ()
    if architectures:
        if not set(architectures) & set(table.values()):
            return False
        return bool(config.get("vision_config") or config.get("vq_config"))
    return config.get("model_type") in table and bool(config.get("vision_config"))


def _recognize_directory(path: Path) -> Recognition | None:
    file = path / "config.json"
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or not is_vision_language(config):
        return None
    said = next(iter(config.get("architectures") or ()), config.get("model_type"))
    return Recognition(1.0, f"config.json says {said}, with a vision tower")


def _recognize_model(model: Any) -> Recognition | None:
    config = getattr(model, "config", None)
    if not (getattr(config, "vision_config", None) or getattr(config, "vq_config", None)):
        return None
    known = set(_table().values())
    for base in type(model).__mro__:  # a user's subclass counts as what it derives from
        if base.__name__ in known and base.__module__.startswith("transformers."):
            return Recognition(1.0, f"a {base.__name__} of transformers")
    return None


@cache
def _table() -> dict[str, str]:
    """{model_type → class name} of the installed transformers' image-text-to-text models.

    The module that holds the table imports torch, so its source is read instead.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return {}
    file = Path(next(iter(spec.submodule_search_locations))) / "models/auto/modeling_auto.py"
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if (
            isinstance(statement, ast.Assign)
            and isinstance(statement.value, ast.Call)
            and any(isinstance(t, ast.Name) and t.id == _MAPPING for t in statement.targets)
        ):
            return dict(ast.literal_eval(statement.value.args[0]))
    return {}
