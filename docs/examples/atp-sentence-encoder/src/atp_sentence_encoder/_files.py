"""The files of sentence-transformers beside a model: its modules, and how they pool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from atp_core.errors import ModelError

__all__ = ["Layout", "Pooling", "plain_layout", "read_layout", "write_layout"]

Pooling = Literal["cls", "mean"]
"""The first token's vector is the embedding of a sentence, or the mean of all."""

_MODULES, _SIZES = "modules.json", "sentence_bert_config.json"
_KNOWN = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class Layout:
    """How vectors of tokens become an embedding, and the files that say so.

    Attributes:
        pooling: how.
        max_tokens: longer sentences are cut; None where nothing says so.
        files: path in the directory → text, saved again as it was read.
    """

    pooling: Pooling
    max_tokens: int | None
    files: Mapping[str, str]


def plain_layout(width: int) -> Layout:
    """Mean pooling and normalization, for a model in memory of this width."""
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(_KNOWN, ("", "1_Pooling", "2_Normalize"), strict=True))
    ]
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    texts = {_MODULES: modules, "1_Pooling/config.json": pooling}
    return Layout("mean", None, {name: json.dumps(data, indent=2) for name, data in texts.items()})


def read_layout(directory: Path) -> Layout:
    """The layout of a directory.

    Raises:
        ModelError: a file is missing or no JSON, or a module or the pooling is of no known kind.
    """
    try:
        return _layout(directory)
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelError(
            f"the files of sentence-transformers in {directory} are not as it writes them "
            f"({error!r}); save the model again"
        ) from None


def write_layout(layout: Layout, directory: Path) -> None:
    """Write the files of a layout."""
    for name, text in layout.files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")


def _layout(directory: Path) -> Layout:
    files: dict[str, str] = {}
    modules = _read(directory, _MODULES, files)
    paths = {str(one["type"]).rpartition(".")[2]: str(one["path"]) for one in modules}
    for kind in paths:
        if kind not in _KNOWN:
            raise ModelError(f"{directory} has a {kind} module; known are {', '.join(_KNOWN)}")
    if paths.get("Transformer") != "" or not paths.get("Pooling"):
        raise ModelError(f"{directory} must hold the Transformer itself, and have a Pooling")
    pooling = _read(directory, f"{paths['Pooling']}/config.json", files)
    others = [f"{path}/config.json" for path in paths.values() if path]
    for name in (*others, _SIZES, "config_sentence_transformers.json"):
        if (directory / name).is_file():
            _read(directory, name, files)
    limit = json.loads(files.get(_SIZES, "{}")).get("max_seq_length")
    return Layout(_pooling(directory, pooling), limit, files)


def _pooling(directory: Path, config: Mapping[str, Any]) -> Pooling:
    # Older versions of the library write a switch for each mode, newer ones one name.
    modes = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    match config.get("pooling_mode", modes):
        case "mean" | ["pooling_mode_mean_tokens"]:
            return "mean"
        case "cls" | ["pooling_mode_cls_token"]:
            return "cls"
        case other:
            raise ModelError(f"{directory} pools by {other}; known are mean and cls")


def _read(directory: Path, name: str, files: dict[str, str]) -> Any:
    try:
        files[name] = (directory / name).read_text(encoding="utf-8")
        return json.loads(files[name])
    except OSError as error:
        raise ModelError(f"cannot read {directory / name}: {error.strerror}") from None
    except ValueError:
        raise ModelError(f"{directory / name} is not JSON; save the model again") from None
