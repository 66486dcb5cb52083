"""The reference's way to a β, written from its description, for comparison.

For each β of the 0.002 grid: load the model and the calibration text anew, prune block by block
with Wanda, one sample at a time, every row sorted in full and its count rounded down, then measure
the perplexity of a text, and take the best. The description measures the text that is reported on;
here it is the search split, so that the report split is fresh to whoever is compared.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import torch
from torch import nn

import atp_llm
from atp_core.records import DataRequest, LoadedModel, LoadRequest, Source, Split

__all__ = ["procedure"]


def procedure(
    source: str, sparsity: float, data: DataRequest, step: float = 0.002
) -> dict[str, Any]:
    """Run the procedure; returns β, its perplexity on the report split, trials and seconds.

    The seconds do not count what is measured on the report split.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    seconds = cpu_seconds = 0.0
    trials: list[tuple[float, float, float]] = []
    while True:
        loaded = atp_llm.atp_load(Source(source), LoadRequest())
        [chain] = atp_llm.atp_locate(loaded)
        blocks = [block.module for block in chain.blocks]
        beta = step * (len(trials) + 1)
        if beta > min(2 * sparsity, 2 * (1 - sparsity)) / (len(blocks) - 1):
            break
        achieved = _prune(loaded, blocks, _rates(sparsity, beta, len(blocks)), data)
        trials.append((beta, _perplexity(loaded, data, "search"), achieved))
        print(f"  reference: β = {beta:.3f}: perplexity {trials[-1][1]:.2f}", flush=True)
        seconds = time.perf_counter() - started
        cpu_seconds = time.process_time() - cpu_started
    best = min(trials, key=lambda trial: trial[1])
    # The model of the round that went past the range is still dense.
    _prune(loaded, blocks, _rates(sparsity, best[0], len(blocks)), data)
    return {
        "beta": best[0],
        "perplexity": _perplexity(loaded, data, "report"),
        "achieved": best[2],
        "trials": trials,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def _rates(sparsity: float, beta: float, length: int) -> list[float]:
    return [sparsity - beta * (length - 1) / 2 + beta * i for i in range(length)]


def _perplexity(loaded: LoadedModel, data: DataRequest, split: Split) -> float:
    return atp_llm.atp_evaluate(loaded, data, split, ["perplexity"]).metrics[0].value


@torch.no_grad()
def _prune(
    loaded: LoadedModel, blocks: list[nn.Module], rates: list[float], data: DataRequest
) -> float:
    """Prune in place; returns the share of weights cut, which rounding down leaves below S."""
    calibration = atp_llm.atp_calibrate(loaded, data)
    inputs: list[tuple[Any, Any]] = []
    cut = total = 0

    class Caught(Exception):
        """The first block's inputs are all that is wanted of this forward."""

    def catch(module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs.append((args, kwargs))
        raise Caught

    handle = blocks[0].register_forward_pre_hook(catch, with_kwargs=True)
    for batch in calibration.batches:
        with contextlib.suppress(Caught):
            calibration.forward(batch)
    handle.remove()
    for block, rate in zip(blocks, rates, strict=True):
        linears = [part for part in block.modules() if isinstance(part, nn.Linear)]
        scalers = {linear: torch.zeros(linear.in_features) for linear in linears}
        seen = dict.fromkeys(linears, 0)

        def add(module: Any, args: Any, s: Any = scalers, n: Any = seen) -> None:
            x = args[0].flatten(0, -2).t().float()
            s[module] *= n[module] / (n[module] + 1)
            n[module] += 1
            s[module] += torch.norm(x, p=2, dim=1) ** 2 / n[module]

        hooks = [linear.register_forward_pre_hook(add) for linear in linears]
        for args, kwargs in inputs:
            block(*args, **kwargs)
        for hook in hooks:
            hook.remove()
        for linear in linears:
            metric = linear.weight.abs() * torch.sqrt(scalers[linear].reshape(1, -1))
            order = torch.sort(metric, dim=-1, stable=True)[1]
            drop = order[:, : math.floor(metric.shape[1] * rate)]
            linear.weight.scatter_(1, drop, 0.0)
            cut, total = cut + drop.numel(), total + metric.numel()
        outputs = [block(*args, **kwargs) for args, kwargs in inputs]
        inputs = [
            ((output if isinstance(output, torch.Tensor) else output[0], *args[1:]), kwargs)
            for output, (args, kwargs) in zip(outputs, inputs, strict=True)
        ]
    return cut / total
