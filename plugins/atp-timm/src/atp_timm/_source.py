"""Which sources are models of timm, told from names and config files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from atp_core.errors import UsageError
from atp_core.records import Recognition, Source

__all__ = ["DIGITS", "EMBEDDED", "LITE0", "Named", "is_hub_layout", "parse", "recognize"]

DIGITS: Final = "digits-vit"
LITE0: Final = "efficientnet-lite0"
EMBEDDED: Final[Mapping[str, str]] = {
    LITE0: "is an image classifier in a Python package",
    DIGITS: "is an image classifier that is trained on first use",
}
"""Embedded models by name, and what is told of each."""

_RANDOM = "@random"


@dataclass(frozen=True)
class Named:
    """A source that names an architecture.

    Attributes:
        name: as timm writes it, e.g. "vit_base_patch16_224" or with a tag ".augreg_in1k".
        weights: "hub" (the pretrained ones), "file" or "random".
        file: the file of weights.
    """

    name: str
    weights: Literal["hub", "file", "random"]
    file: Path | None = None


def recognize(source: Source) -> Recognition | None:
    """Say whether `source` is a model of timm, how surely, and why; None where it is not."""
    if source.model is not None:
        return _recognize_model(source.model)
    scheme, colon, name = source.text.partition(":")
    if colon and scheme == "timm":
        return Recognition(1.0, "timm:NAME names a model of timm")
    if colon and scheme == "hf_hub":
        return Recognition(1.0, "hf_hub:ORG/NAME names a model of timm on the hub")
    if colon and scheme == "embedded":
        told = EMBEDDED.get(name)
        return None if told is None else Recognition(1.0, f"{name} {told}")
    path = source.path
    if path is not None and path.is_dir() and is_hub_layout(path):
        return Recognition(1.0, "config.json has timm's hub layout")
    return None


def parse(text: str) -> Named:
    """What follows ``timm:``: NAME[.TAG], NAME=FILE.safetensors or NAME@random.

    Raises:
        UsageError: it has another form.
    """
    name, equals, file = text.partition("=")
    if equals:
        found = Named(name, "file", Path(file).expanduser() if file else None)
    elif name.endswith(_RANDOM):
        found = Named(name.removesuffix(_RANDOM), "random")
    else:
        found = Named(name, "hub")
    if not found.name or "@" in found.name or (equals and not file):
        raise UsageError(
            f"'timm:{text}' names no model; write timm:NAME, timm:NAME.TAG, "
            "timm:NAME=FILE.safetensors, or timm:NAME@random for random weights"
        )
    return found


def is_hub_layout(directory: Path) -> bool:
    """Whether a directory's ``config.json`` is of timm: it names an architecture of its own.

    open_clip's has "model_cfg" instead, transformers' has "architectures".
    """
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(config, dict) or "model_cfg" in config:
        return False
    return isinstance(config.get("architecture"), str)


def _recognize_model(model: Any) -> Recognition | None:
    if not (getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)):
        return None
    for base in type(model).__mro__:  # a user's subclass counts as what it derives from
        package = base.__module__
        # A feature extractor around a model is no classifier.
        if package.startswith("timm.models.") and not package.startswith("timm.models._"):
            return Recognition(1.0, f"a {base.__name__} of timm")
    return None
