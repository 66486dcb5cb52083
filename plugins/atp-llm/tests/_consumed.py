"""Which memory of a model's parameters its matrix products consume, and in which orientation.

Written without the engine's taps, so that the two can be held against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from atp_core.engine.pruning import PruneOptions, prune_model
from atp_core.methods.wanda import Wanda
from atp_core.records import (
    Calibration,
    Chain,
    LoadedModel,
    PrunableWeight,
    Schedule,
    Source,
)

__all__ = ["Findings", "Products", "check_forward", "check_pruning"]

aten = torch.ops.aten


@dataclass(frozen=True)
class _Operand:
    """A matrix (out, in) that multiplied something, by where it lies."""

    offset: int
    shape: tuple[int, int]
    strides: tuple[int, int]


class Products(TorchDispatchMode):
    """While active, records every operand of a matrix product, by storage."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: dict[int, set[_Operand]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet is aten.linear:
            self._add(args[1])
        elif packet in (aten.mm, aten.bmm, aten.matmul, aten.mv):
            self._pair(args[0], args[1])
        elif packet in (aten.addmm, aten.baddbmm):
            self._pair(args[1], args[2])
        elif packet is aten._grouped_mm:
            self._add(args[1].transpose(-1, -2))
        elif packet is aten.convolution or packet in (aten.conv1d, aten.conv2d, aten.conv3d):
            self._add(args[1].flatten(1))
        elif packet is aten.einsum:  # made of the others
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _pair(self, left: torch.Tensor, right: torch.Tensor) -> None:
        if left.dim() >= 2:
            self._add(left)
        if right.dim() >= 2:
            self._add(right.transpose(-1, -2))

    def _add(self, operand: torch.Tensor) -> None:
        if operand.dim() > 2:
            for i in range(operand.shape[0] if operand.stride(0) else 1):
                self._add(operand[i])
            return
        rows, columns = operand.shape
        found = _Operand(operand.storage_offset(), (rows, columns), tuple(operand.stride()))
        self.operands.setdefault(operand.untyped_storage().data_ptr(), set()).add(found)

    def covers(self, weight: PrunableWeight) -> bool:
        """Whether every row of `weight` was multiplied along the whole of its in_features."""
        matrix = weight.matrix()
        rows, columns = matrix.shape
        step, inner = matrix.stride()
        covered: set[int] = set()
        for operand in self.operands.get(matrix.untyped_storage().data_ptr(), ()):
            same = operand.shape[1] == columns and (operand.strides[1] == inner or columns == 1)
            same = same and (operand.strides[0] == step or operand.shape[0] == 1)
            start, rest = divmod(operand.offset - matrix.storage_offset(), step)
            if same and rest == 0:
                covered.update(range(max(start, 0), min(start + operand.shape[0], rows)))
        return len(covered) == rows


@dataclass
class Findings:
    """What one forward pass showed.

    Attributes:
        unseen: unconditional weights that no product consumed as located.
        unseen_experts: conditional ones.
        order: located blocks in the order of their first call.
        calls: number of calls of each block that was called.
    """

    unseen: list[str] = field(default_factory=list)
    unseen_experts: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)

    def problem(self, chains: Sequence[Chain]) -> str | None:
        """What is wrong with the location of `chains`, or None."""
        located = [block.name for chain in chains for block in chain.blocks]
        if self.order != located:
            missing = [name for name in located if name not in self.calls]
            if missing:
                return f"blocks never run: {missing}"
            return f"blocks run as {self.order}, located as {located}"
        if self.unseen:
            return f"{len(self.unseen)} weights not consumed as located, e.g. {self.unseen[:3]}"
        experts = [w for c in chains for b in c.blocks for w in b.weights if w.conditional]
        if experts and 2 * len(self.unseen_experts) > len(experts):
            return f"most experts not consumed as located, e.g. {self.unseen_experts[:3]}"
        return None


def check_forward(chains: Sequence[Chain], forward: Callable[[], Any]) -> Findings:
    """Run `forward` and see whether it consumes the weights of `chains` inside their blocks."""
    findings = Findings()
    blocks = [block for chain in chains for block in chain.blocks]
    watches = {block.name: Products() for block in blocks}

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if name not in findings.calls:
                findings.order.append(name)
            findings.calls[name] = findings.calls.get(name, 0) + 1
            watches[name].__enter__()

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            watches[name].__exit__(None, None, None)

        return hook

    handles = [
        handle
        for block in blocks
        for handle in (
            block.module.register_forward_pre_hook(enter(block.name), with_kwargs=True),
            block.module.register_forward_hook(leave(block.name)),
        )
    ]
    try:
        with torch.inference_mode():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    for block in blocks:
        for weight in _unseen(block.weights, watches[block.name]):
            (findings.unseen_experts if weight.conditional else findings.unseen).append(weight.name)
    return findings


def _unseen(weights: Sequence[PrunableWeight], products: Products) -> Iterator[PrunableWeight]:
    return (weight for weight in weights if not products.covers(weight))


def check_pruning(
    chains: Sequence[Chain], forward: Callable[[], Any], rate: float = 0.5
) -> str | None:
    """What goes wrong when the engine prunes all blocks with Wanda to `rate`, or None.

    Raises:
        ModelError: the engine cannot drive the model, or got no statistics of a weight.
    """
    calibration = Calibration(
        batches=[None],
        forward=lambda _: forward(),
        samples=4,
        unit="sequences",
        dataset="random tokens",
        fingerprint="random",
        examples=frozenset(),
        batch_samples=[4],
    )
    rates = {chain.name: {block.name: rate for block in chain.blocks} for chain in chains}
    loaded = LoadedModel(nn.Module(), Source("random weights"))
    schedule = Schedule(rates, rate, "uniform")
    report = prune_model(loaded, chains, schedule, Wanda(), calibration, PruneOptions())
    if abs(report.achieved - rate) > 0.01:
        return f"{report.achieved:.3f} of the weights are zero after pruning to {rate}"
    return None
