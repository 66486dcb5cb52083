"""atp-prune plugin for the CLIP models of open_clip, and CLIP, SigLIP and SigLIP 2 of transformers.

Only hooks live here. torch, open_clip and transformers are imported when a hook first needs them,
so that discovery stays fast.
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
    Workload,
    WorkRequest,
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
    "atp_workloads",
]

ATP_HOOK_API = 1
"""Lowest version of the hook API that this plugin works with."""


@hookimpl
def atp_recognize(source: Source) -> Recognition | None:
    """CLIP models of open_clip and transformers: local, on the hub, embedded or in memory."""
    from ._source import recognize

    return recognize(source)


@hookimpl
def atp_load(source: Source, request: LoadRequest) -> LoadedModel:
    """Load the model, its tokenizer and its image transform."""
    from ._load import load

    return load(source, request)


@hookimpl
def atp_locate(loaded: LoadedModel) -> Sequence[Chain]:
    """The blocks of the image tower and of the text tower."""
    from ._locate import locate

    return locate(loaded.model)


@hookimpl
def atp_calibrate(loaded: LoadedModel, data: DataRequest) -> Calibration:
    """Images with texts, from the calibration part of the data."""
    from ._calibrate import calibrate

    return calibrate(loaded, data)


@hookimpl
def atp_evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None
) -> Evaluation:
    """Zero-shot classification on labelled images, retrieval on images with captions."""
    from ._evaluate import evaluate

    return evaluate(loaded, data, split, metrics)


@hookimpl
def atp_workloads(loaded: LoadedModel, request: WorkRequest) -> Sequence[Workload]:
    """Images and texts to encode."""
    from ._workloads import workloads

    return workloads(loaded, request)


@hookimpl
def atp_save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write what open_clip's ``local-dir:``, or transformers' `from_pretrained`, reads."""
    from ._save import save

    return save(loaded, directory)


@hookimpl
def atp_examples() -> Sequence[Offer]:
    """A CLIP of open_clip and a SigLIP of transformers."""
    return [
        Offer("clip", "atp_open_clip._examples:clip", "3 + 2 blocks of open_clip"),
        Offer("siglip", "atp_open_clip._examples:siglip", "2 + 2 blocks of transformers' SigLIP"),
    ]
