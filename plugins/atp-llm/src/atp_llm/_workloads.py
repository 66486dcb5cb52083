"""What a language model is timed on: reading a prompt, and writing on from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from atp_core.errors import UsageError
from atp_core.generating import generation
from atp_core.records import LoadedModel, Workload, WorkRequest

from ._inputs import device_of, inputs_for

__all__ = ["workloads"]

_TOKENS: Final = 128
_STEPS: Final = 32


def workloads(loaded: LoadedModel, request: WorkRequest) -> Sequence[Workload]:
    """Decode and prefill on random tokens.

    Raises:
        UsageError: prompt and answer are longer than the model can take.
    """
    model = loaded.model
    config: Any = model.config.get_text_config()  # type: ignore[operator,union-attr]
    steps = request.steps or _STEPS
    longest = getattr(config, "max_position_embeddings", None)
    tokens = request.tokens or min(_TOKENS, *([longest - steps] if longest else ()))
    if longest and (tokens < 1 or tokens + steps > longest):
        raise UsageError(
            f"{loaded.source.text} takes {longest} tokens, fewer than a prompt of {tokens} and "
            f"{steps} to decode; give smaller --tokens or --steps"
        )

    def inputs(batch: int) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(request.seed)
        ids = torch.randint(config.vocab_size, (batch, tokens), generator=random)
        return inputs_for(model, ids.to(device_of(model)))[0]

    told = f"a prompt of {tokens} tokens"
    return generation(
        model, inputs, request.batch_sizes, tokens=tokens, steps=steps, prompt=told
    )
