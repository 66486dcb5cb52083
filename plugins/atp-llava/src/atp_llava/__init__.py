"""atp-prune plugin for LLaVA and other image-text-to-text models of transformers.

Only hooks live here. torch and transformers are imported when a hook first needs them, so that
discovery stays fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    "atp_lm",
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
    """Vision-language models of transformers: local, on the hub, embedded or in memory."""
    from ._source import recognize

    return recognize(source)


@hookimpl
def atp_load(source: Source, request: LoadRequest) -> LoadedModel:
    """Load the model and its processor."""
    from ._load import load

    return load(source, request)


@hookimpl
def atp_locate(loaded: LoadedModel) -> Sequence[Chain]:
    """The blocks of the vision tower and of the language model."""
    from ._locate import locate

    return locate(loaded.model)


@hookimpl
def atp_calibrate(loaded: LoadedModel, data: DataRequest) -> Calibration:
    """Images with their questions and answers, or text alone."""
    from ._calibrate import calibrate

    return calibrate(loaded, data)


@hookimpl
def atp_evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None
) -> Evaluation:
    """Answer loss and accuracy of questions about images, POPE's figures, or perplexity."""
    from ._evaluate import evaluate

    return evaluate(loaded, data, split, metrics)


@hookimpl
def atp_lm(loaded: LoadedModel, batch_size: int) -> Any:
    """The model for tasks of lm-eval."""
    from ._lm import wrap

    return wrap(loaded, batch_size)


@hookimpl
def atp_workloads(loaded: LoadedModel, request: WorkRequest) -> Sequence[Workload]:
    """Decode and prefill on an image of random pixels."""
    from ._workloads import workloads

    return workloads(loaded, request)


@hookimpl
def atp_save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write what `from_pretrained` reads."""
    from ._save import save

    return save(loaded, directory)


@hookimpl
def atp_examples() -> Sequence[Offer]:
    """A LLaVA."""
    return [
        Offer("llava", "atp_llava._examples:llava", "3 vision and 4 language blocks"),
    ]
