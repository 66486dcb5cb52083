"""atp-prune plugin for the causal and encoder-decoder language models of transformers.

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
    """Language models of transformers: local, on the hub, GGUF, embedded or in memory."""
    from ._source import recognize

    return recognize(source)


@hookimpl
def atp_load(source: Source, request: LoadRequest) -> LoadedModel:
    """Load the model and its tokenizer."""
    from ._load import load

    return load(source, request)


@hookimpl
def atp_locate(loaded: LoadedModel) -> Sequence[Chain]:
    """The decoder's blocks, or the encoder's and the decoder's."""
    from ._locate import locate

    return locate(loaded.model)


@hookimpl
def atp_calibrate(loaded: LoadedModel, data: DataRequest) -> Calibration:
    """Sequences of tokens from the calibration part of the text."""
    from ._calibrate import calibrate

    return calibrate(loaded, data)


@hookimpl
def atp_evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None
) -> Evaluation:
    """Perplexity, bits per byte, and agreement with the dense model."""
    from ._evaluate import evaluate

    return evaluate(loaded, data, split, metrics)


@hookimpl
def atp_lm(loaded: LoadedModel, batch_size: int) -> Any:
    """The model for tasks of lm-eval."""
    from ._lm import wrap

    return wrap(loaded, batch_size)


@hookimpl
def atp_workloads(loaded: LoadedModel, request: WorkRequest) -> Sequence[Workload]:
    """Decode and prefill on random tokens."""
    from ._workloads import workloads

    return workloads(loaded, request)


@hookimpl
def atp_save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write what `from_pretrained` reads."""
    from ._save import save

    return save(loaded, directory)


@hookimpl
def atp_examples() -> Sequence[Offer]:
    """A decoder, a mixture of experts, and an encoder with a decoder."""
    return [
        Offer("llama", "atp_llm._examples:llama", "3 Llama blocks, bfloat16, tied embeddings"),
        Offer("mixtral", "atp_llm._examples:mixtral", "2 Mixtral blocks of 4 experts"),
        Offer("t5", "atp_llm._examples:t5", "2 T5 blocks in encoder and decoder"),
    ]
