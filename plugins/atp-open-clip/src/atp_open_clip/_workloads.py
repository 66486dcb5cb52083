"""What a CLIP model is timed on: encoding images, and encoding texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL.Image import fromarray

from atp_core.records import LoadedModel, Workload, WorkRequest

from ._clip import clip_of
from ._inputs import Inputs

__all__ = ["workloads"]


def workloads(loaded: LoadedModel, request: WorkRequest) -> Sequence[Workload]:
    """Images of random pixels and a sentence, as the model's own processor prepares them."""
    clip = clip_of(loaded)
    random = torch.Generator().manual_seed(request.seed)
    pixels = torch.randint(256, (256, 256, 3), generator=random, dtype=torch.uint8)
    image = clip.pixels(fromarray(pixels.numpy()))
    text = clip.tokens(["a photo of a cat that sleeps on a chair in the sun"])

    def starting(
        encode: Callable[[Inputs], torch.Tensor], one: Inputs, batch: int
    ) -> Callable[[], Callable[[], Any]]:
        def start() -> Callable[[], Any]:
            ready = clip.ready(Inputs.joined([one] * batch))
            return lambda: encode(ready)

        return start

    kinds = (
        ("images", clip.images, image, "images as the processor prepares them"),
        ("texts", clip.texts, text, "a sentence of 12 words"),
    )
    return [
        Workload(name, name, batch, batch, starting(encode, one, batch), told)
        for name, encode, one, told in kinds
        for batch in request.batch_sizes
    ]
