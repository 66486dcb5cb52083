"""What an image model is timed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from atp_core.records import LoadedModel, Workload, WorkRequest

from ._input import device_of, dtype_of, input_size

__all__ = ["workloads"]


def workloads(loaded: LoadedModel, request: WorkRequest) -> Sequence[Workload]:
    """Images of the model's own size, of random numbers."""
    model, size = loaded.model, input_size(loaded.model)

    def starting(batch: int) -> Callable[[], Callable[[], Any]]:
        def start() -> Callable[[], Any]:
            random = torch.Generator().manual_seed(request.seed)
            images = torch.randn(batch, *size, generator=random)
            ready = images.to(device_of(model), dtype_of(model))
            return lambda: model(ready)

        return start

    told = f"images of {size[1]}×{size[2]}"
    return [
        Workload("images", "images", batch, batch, starting(batch), told)
        for batch in request.batch_sizes
    ]
