"""Which sources are CLIP models, told from names and config files alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from atp_core.records import Recognition, Source

__all__ = [
    "CONFIG_NAME",
    "DIGITS",
    "HUB_PREFIX",
    "PREFIX",
    "is_hub_name",
    "is_open_clip_directory",
    "is_transformers_directory",
    "is_transformers_model",
    "recognize",
]

PREFIX: Final = "open_clip:"
"""Before the name of an architecture of open_clip."""

HUB_PREFIX: Final = "hf-hub:"
"""open_clip's own spelling of a hub repository in its layout (timm's has an underscore)."""

DIGITS: Final = "embedded:digits-clip"
"""The model that is trained on the spot."""

CONFIG_NAME: Final = "open_clip_config.json"

_MODEL_TYPES = frozenset({"clip", "siglip", "siglip2"})
_CLASSES = frozenset({"CLIPModel", "SiglipModel", "Siglip2Model"})
# openai/clip-vit-base-patch32, laion/CLIP-ViT-B-32-…, google/siglip2-base-patch16-224
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/(meta)?(clip|siglip2?)-[\w.-]+", re.IGNORECASE)


def recognize(source: Source) -> Recognition | None:
    """Say whether `source` is a CLIP model, how surely, and why; None where it is not.

    Confidence: 1 for what the prefix, file or class itself says, 0.4 for a hub name that starts
    with "clip" or "siglip", 0.05 for what this plugin can only explain.
    """
    if source.model is not None:
        return _recognize_model(source.model)
    if source.text.startswith(PREFIX):
        return Recognition(1.0, f"{PREFIX} names an architecture of open_clip")
    if source.text.startswith(HUB_PREFIX):
        return Recognition(1.0, f"{HUB_PREFIX} is open_clip's prefix for the Hugging Face hub")
    if source.text == DIGITS:
        return Recognition(1.0, "a small CLIP trained on the spot")
    path = source.path
    if path is not None:
        return _recognize_path(path)
    if is_hub_name(source.text):
        return Recognition(0.4, "named like a CLIP model on the Hugging Face hub")
    return None


def is_hub_name(text: str) -> bool:
    """Whether `text` is a hub name whose last part begins with "clip-" or "siglip-"."""
    return _HUB_NAME.fullmatch(text) is not None


def is_open_clip_directory(path: Path) -> bool:
    """Whether a directory has open_clip's hub layout."""
    return (path / CONFIG_NAME).is_file()


def is_transformers_directory(path: Path) -> bool:
    """Whether a directory's ``config.json`` describes a CLIP model of transformers."""
    config = _json(path / "config.json")
    return config is not None and config.get("model_type") in _MODEL_TYPES


def is_transformers_model(model: Any) -> bool:
    """Whether a model in memory is a CLIP model of transformers."""
    return any(
        base.__name__ in _CLASSES and base.__module__.startswith("transformers.")
        for base in type(model).__mro__
    )


def _recognize_path(path: Path) -> Recognition | None:
    if not path.is_dir():
        return None
    if is_open_clip_directory(path):
        config = _json(path / CONFIG_NAME)
        if config is None:
            return Recognition(0.05, f"a directory whose {CONFIG_NAME} cannot be read")
        return Recognition(1.0, f"the directory has an {CONFIG_NAME}")
    if is_transformers_directory(path):
        said = (_json(path / "config.json") or {}).get("model_type")
        return Recognition(1.0, f"config.json says {said}")
    return None


def _recognize_model(model: Any) -> Recognition | None:
    if is_transformers_model(model):
        return Recognition(1.0, f"a {type(model).__name__} of transformers")
    # A user's subclass counts as what it derives from; open_clip's towers alone have no `visual`.
    ours = any(base.__module__.startswith("open_clip.") for base in type(model).__mro__)
    if ours and hasattr(model, "visual"):
        return Recognition(1.0, f"a {type(model).__name__} of open_clip")
    return None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
