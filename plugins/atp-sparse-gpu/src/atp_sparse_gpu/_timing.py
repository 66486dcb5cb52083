"""Times of the routes of a layer on its CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ._choose import Route, interleaved
from ._launch import on_device
from ._products import Formats, product

__all__ = ["stopwatch", "times_of"]

# More than the L2 cache of any GPU so far: in a model each layer finds the cache full of others.
_FLUSH = 256 * 2**20


def stopwatch(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """Returns a function that runs a call with a cold L2 cache and gives its seconds."""
    flush = torch.empty(_FLUSH, dtype=torch.uint8, device=device)

    def seconds(call: Callable[[], object]) -> float:
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        flush.zero_()  # and while it runs, the launches below are queued
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    return seconds


def times_of(
    formats: Formats, bias: Tensor | None
) -> Callable[[int, Sequence[Route]], Mapping[Route, float]]:
    """Measures routes of one layer, as `_choose.measured_plan` asks for them."""
    assert formats.dense is not None
    dense = formats.dense
    with on_device(dense):
        clock = stopwatch(dense.device)

    def times(tokens: int, routes: Sequence[Route]) -> Mapping[Route, float]:
        x = torch.randn(tokens, dense.shape[1], device=dense.device).to(dense.dtype)

        def timed(route: Route) -> Callable[[], float]:
            return lambda: clock(lambda: product(route, x, formats, bias))

        with on_device(dense), torch.no_grad():
            return interleaved({route: timed(route) for route in routes})

    return times
