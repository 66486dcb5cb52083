"""What a vision-language model is timed on: reading an image and a prompt, and answering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import torch
from PIL.Image import fromarray

from atp_core.data import ImageFile
from atp_core.generating import generation
from atp_core.records import DataRequest, LoadedModel, Workload, WorkRequest

from ._calibrate import check_decoder
from ._inputs import Encoder, Inputs, extended, moved
from ._prompt import Prompts
from ._questions import Question

__all__ = ["workloads"]

_STEPS: Final = 32
_SIDE: Final = 336  # pixels of the image, before the processor


def workloads(loaded: LoadedModel, request: WorkRequest) -> Sequence[Workload]:
    """Decode and prefill on an image of random pixels.

    A prompt is what the processor makes of the image alone; the last token is repeated where a
    longer one is asked for.

    Raises:
        ModelError: the model has no processor, or its text goes through an encoder of its own.
    """
    check_decoder(loaded)
    prompts = Prompts(loaded, DataRequest())
    nothing = Question(cast(ImageFile, None), question="", answer="", where="the timed prompt")
    random = torch.Generator().manual_seed(request.seed)
    pixels = torch.randint(256, (_SIDE, _SIDE, 3), generator=random, dtype=torch.uint8)
    encoder = Encoder(loaded, prompts)
    one = encoder.encoded(prompts.of(nothing), fromarray(pixels.numpy()), nothing.where)
    length = one["input_ids"].shape[1]
    one = extended(one, [int(one["input_ids"][0, -1])] * max(0, (request.tokens or 0) - length))
    tokens = one["input_ids"].shape[1]
    model = loaded.model

    def inputs(batch: int) -> Inputs:
        return moved({name: _repeated(value, batch) for name, value in one.items()}, model)

    return generation(
        model,
        inputs,
        request.batch_sizes,
        tokens=tokens,
        steps=request.steps or _STEPS,
        prompt=f"a prompt of {tokens} tokens with an image",
    )


def _repeated(value: Any, times: int) -> Any:
    return torch.cat([value] * times) if isinstance(value, torch.Tensor) else value
