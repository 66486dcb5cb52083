"""The model as lm-eval sees it."""

from __future__ import annotations

from typing import Any

from atp_core.evaluation.harness import library
from atp_core.records import LoadedModel

from ._inputs import device_of
from ._quiet import quiet
from ._windows import tokenizer_of

__all__ = ["wrap"]


def wrap(loaded: LoadedModel, batch_size: int) -> Any:
    """The model in memory as lm-eval's `HFLM`, on the device where it is.

    Raises:
        ModelError: the model came without a tokenizer.
        UsageError: lm-eval is not installed.
    """
    tokenizer = tokenizer_of(loaded)
    with quiet():
        # lm-eval passes batch size and device on only where it loads the model itself.
        return library("lm_eval.models.huggingface").HFLM(
            pretrained=loaded.model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            device=str(device_of(loaded.model)),
        )
