"""atp-prune plugin for the vision models of timm.

Only hooks live here. torch and timm are imported when a hook first needs them, so that discovery
stays fast.
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
    """Models of timm: by name, on the hub, local, embedded or in memory."""
    from ._source import recognize

    return recognize(source)


@hookimpl
def atp_load(source: Source, request: LoadRequest) -> LoadedModel:
    """Load the model; its preprocessing is that of its own config."""
    from ._load import load

    return load(source, request)


@hookimpl
def atp_locate(loaded: LoadedModel) -> Sequence[Chain]:
    """The one chain of blocks, "vision"."""
    from ._locate import locate

    return locate(loaded.model)


@hookimpl
def atp_calibrate(loaded: LoadedModel, data: DataRequest) -> Calibration:
    """Batches of images from the calibration part of a folder."""
    from ._calibrate import calibrate

    return calibrate(loaded, data)


@hookimpl
def atp_evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None
) -> Evaluation:
    """Accuracy and cross-entropy where images have labels, else agreement with the dense model."""
    from ._evaluate import evaluate

    return evaluate(loaded, data, split, metrics)


@hookimpl
def atp_workloads(loaded: LoadedModel, request: WorkRequest) -> Sequence[Workload]:
    """Images of random numbers."""
    from ._workloads import workloads

    return workloads(loaded, request)


@hookimpl
def atp_save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write timm's hub layout."""
    from ._save import save

    return save(loaded, directory)


@hookimpl
def atp_examples() -> Sequence[Offer]:
    """A transformer and a network of convolutions."""
    return [
        Offer("convnext", "atp_timm._examples:convnext", "5 ConvNeXt blocks of different sizes"),
        Offer("vit", "atp_timm._examples:vit", "3 blocks of a ViT"),
    ]
