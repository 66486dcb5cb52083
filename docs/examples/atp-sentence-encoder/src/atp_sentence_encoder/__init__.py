"""atp-prune plugin for sentence encoders in the layout of sentence-transformers.

Only hooks live here, and nothing that imports torch: this module is imported whenever `atp` starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atp_core.hookspecs import hookimpl
from atp_core.records import (
    Calibration,
    Chain,
    DataRequest,
    Evaluation,
    LoadedModel,
    LoadRequest,
    Offer,
    Recognition,
    Source,
    Split,
)

__all__ = [
    "ATP_HOOK_API",
    "atp_calibrate",
    "atp_evaluate",
    "atp_examples",
    "atp_load",
    "atp_locate",
    "atp_recognize",
    "atp_save",
]

ATP_HOOK_API = 1
"""Lowest version of the hook API that this plugin works with."""


@hookimpl
def atp_recognize(source: Source) -> Recognition | None:
    """Sentence encoders in a directory, in a Python package or in memory."""
    from ._recognize import recognize

    return recognize(source)


@hookimpl
def atp_load(source: Source, request: LoadRequest) -> LoadedModel:
    """The transformer, its tokenizer, and how it pools."""
    from ._load import load

    return load(source, request)


@hookimpl
def atp_locate(loaded: LoadedModel) -> Sequence[Chain]:
    """The one chain of layers."""
    from ._locate import locate

    return locate(loaded.model)


@hookimpl
def atp_calibrate(loaded: LoadedModel, data: DataRequest) -> Calibration:
    """Batches of sentences from the calibration part."""
    from ._calibrate import calibrate

    return calibrate(loaded, data)


@hookimpl
def atp_evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None
) -> Evaluation:
    """How well the dense model's similarities are kept on another part, or another file."""
    from ._evaluate import evaluate

    return evaluate(loaded, data, split, metrics)


@hookimpl
def atp_save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write what sentence-transformers loads, and transformers alone."""
    from ._save import save

    return save(loaded, directory)


@hookimpl
def atp_examples() -> Sequence[Offer]:
    """A tiny model with data, which `atp plugins check` and the tests walk through all hooks."""
    return [
        Offer(
            "tiny-bert",
            "atp_sentence_encoder._example:example",
            "three layers of width 16",
        ),
    ]
