"""Quantizing a located model block by block, on what quantized blocks hand on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from atp_core.engine.dense import repeated_notes
from atp_core.engine.lockstep import Lockstep
from atp_core.engine.observation import BlockStatistics
from atp_core.engine.placement import Placement
from atp_core.engine.statistics import Gram
from atp_core.errors import NumericalError
from atp_core.methods.sparsegpt import SparseGPT
from atp_core.progress import Progress
from atp_core.records import Block, Calibration, Chain, PrunableWeight

from ._gptq import quantize_columns
from ._grid import QuantizedWeight, Spec, round_to_nearest

__all__ = ["Plan", "Quantized", "quantize_blocks"]


@dataclass(frozen=True)
class Plan:
    """What to do to each block.

    Attributes:
        bits: chain and block → width of its codes.
        rates: chain and block → share of its weights to cut; none where nothing is cut.
        method: the solver.
        group_size: as in `Spec`, and so the others.
    """

    bits: Mapping[tuple[str, str], int]
    rates: Mapping[tuple[str, str], float] = field(default_factory=dict)
    method: Literal["rtn", "gptq"] = "gptq"
    group_size: int | None = 128
    symmetric: bool = True
    clip: bool = True


@dataclass
class Quantized:
    """What was done to a model.

    Attributes:
        weights: name → its codes, on the CPU.
        notes: what a user must know.
    """

    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def quantize_blocks(
    chains: Sequence[Chain],
    plan: Plan,
    calibration: Callable[[], Calibration],
    device: torch.device | None,
    progress: Progress,
    title: str = "quantizing",
) -> Quantized:
    """Replace every located weight by what its codes stand for, in place.

    Each block's statistics are taken with the blocks before it already quantized.

    Args:
        chains: the located weights.
        plan: what to do.
        calibration: gives the calibration data, if the solver takes statistics.
        device: where blocks run; None leaves them where they are.
        progress: shown one step a block.
        title: what the progress is called.

    Raises:
        ModelError: the model cannot be driven block by block.
        NumericalError: weights or activations are not finite, or a factorization fails.
    """
    done = Quantized()
    placement = Placement.of(chains, device)
    total = sum(len(chain.blocks) for chain in chains)
    with torch.inference_mode(), progress.task(title, total) as advance:
        if plan.method == "rtn":
            for chain in chains:
                for block in chain.blocks:
                    with placement.on_device(block.module):
                        _quantize_block(chain, block, plan, None, done)
                        placement.keep(block.module)
                    advance(block.name)
            return done
        data = calibration()
        with Lockstep(data.forward, data.batches, chains, placement) as lockstep:
            for stop in lockstep:
                # SparseGPT's statistics are the Gram matrices that GPTQ takes too.
                statistics = BlockStatistics(stop.block, SparseGPT())
                statistics.run(stop.calls, data.batch_samples, placement)
                _quantize_block(stop.chain, stop.block, plan, statistics, done)
                placement.keep(stop.block.module)
                advance(stop.block.name)
        done.notes += repeated_notes(lockstep)
    return done


def _quantize_block(
    chain: Chain, block: Block, plan: Plan, statistics: BlockStatistics | None, done: Quantized
) -> None:
    at = (chain.name, block.name)
    for weight in block.weights:
        view = weight.matrix()
        if not bool(torch.isfinite(view).all()):
            raise NumericalError(f"{weight.name} holds values that are not finite")
        spec = Spec(plan.bits[at], plan.group_size, plan.symmetric, plan.clip, view.dtype)
        seen = None if statistics is None else statistics.of(weight)
        assert seen is None or isinstance(seen, Gram)
        found = _solve(weight, view.float(), spec, plan, plan.rates.get(at, 0.0), seen, done)
        view.copy_(found.dense())
        done.weights[weight.name] = QuantizedWeight(
            found.codes.cpu(),
            found.scale.cpu(),
            None if found.zero is None else found.zero.cpu(),
            found.bits,
        )


def _solve(
    weight: PrunableWeight,
    values: torch.Tensor,
    spec: Spec,
    plan: Plan,
    rate: float,
    seen: Gram | None,
    done: Quantized,
) -> QuantizedWeight:
    if plan.method == "rtn":
        return round_to_nearest(values, spec)
    if seen is None or not seen.tokens:
        if rate > 0.0:
            pruned = SparseGPT().prune(values, rate, None)
            values = values.masked_fill(~pruned.mask, 0.0)
        done.notes.append(f"{weight.name}: no calibration token reached it; rounded to nearest")
        return round_to_nearest(values, spec)
    try:
        found, notes = quantize_columns(values, seen, spec, rate)
    except NumericalError as error:
        raise NumericalError(f"{weight.name}: {error}") from error
    done.notes += [f"{weight.name}: {note}" for note in notes]
    return found
