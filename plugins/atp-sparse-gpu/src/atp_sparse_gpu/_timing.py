"""Times of the routes of a layer on its CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ._choose import Route, interleaved
from ._launch import on_device
from ._products import Formats, product

__all__ = ["stopwatch", "times_of"]

# For which the GPU sleeps, so that the launches of a call are queued before it is timed.
_SLEEP_CYCLES = 1_000_000


def stopwatch(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """Returns a function that runs a call with a cold L2 cache and gives its seconds on the GPU.

    In a model each layer finds the cache full of others. What Python needs for the launch does not
    count, as in a CUDA graph.
    """
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.empty(2 * cache, dtype=torch.uint8, device=device)

    def seconds(call: Callable[[], object]) -> float:
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        flush.zero_()
        torch.cuda._sleep(_SLEEP_CYCLES)
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
