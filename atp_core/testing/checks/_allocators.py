"""Checks of an allocation: the budget is met, whatever the blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ...allocation import AllocationRequest, Allocator
from ...allocation.budget import beta_max, weighted_mean
from ...errors import UsageError
from ...records import Block, Chain, PrunableWeight, Schedule
from .._check import CheckFailed, checker, require
from ._offered import OfferSubject, built

__all__ = ["CHECKS", "AllocatorSubject"]

CHECKS: list[tuple[str, Callable[[AllocatorSubject], None]]] = []
_check = checker(CHECKS)

_TARGETS = (0.0, 0.05, 0.3, 0.5, 0.7, 0.95)


class AllocatorSubject(OfferSubject):
    """An allocation on offer."""

    def allocate(self, chains: Sequence[Chain], target: float, **options: Any) -> Schedule:
        """The schedule of some chains; half the largest β where the allocation takes one."""
        allocator: Allocator = self.build()
        if getattr(allocator, "takes_beta", False) and "beta" not in options:
            limits = [beta_max(target, len(c.blocks)) for c in chains if len(c.blocks) > 1]
            options["beta"] = min(limits, default=0.0) / 2
        sparsity = {chain.name: target for chain in chains}
        return allocator.allocate(AllocationRequest(chains, sparsity, options, _Shown(chains)))


class _Shown:
    """An `atp_core.allocation.Observed` of the chains below, made of their weights."""

    def __init__(self, chains: Sequence[Chain]) -> None:
        self._chains = chains

    def norms(self, weight: PrunableWeight) -> torch.Tensor:
        """Norms that differ from feature to feature; the first feature is dead."""
        return torch.arange(weight.shape[1], dtype=torch.float32)

    def inputs(self, chain: Chain) -> Sequence[torch.Tensor]:
        """Random rows, each block's a little further from the first's."""
        generator = torch.Generator().manual_seed(len(chain.blocks))
        rows = torch.randn(16, 8, generator=generator)
        steps = (torch.randn(16, 8, generator=generator) for _ in chain.blocks)
        return [rows + i * step for i, step in enumerate(steps)]

    def loss(self) -> float:
        """The mean square of all weights."""
        matrices = [w.matrix() for c in self._chains for b in c.blocks for w in b.weights]
        return sum(float(m.square().mean()) for m in matrices)


def _chain(name: str, widths: Sequence[int], fill: float | None = None) -> Chain:
    """A chain of blocks of one matrix, `width` x 8 each; random numbers, or `fill`."""
    generator = torch.Generator().manual_seed(len(widths))
    blocks = []
    for i, width in enumerate(widths):
        layer = nn.Linear(8, width, bias=False)
        with torch.no_grad():
            values = torch.randn(width, 8, generator=generator)
            layer.weight.copy_(values if fill is None else torch.full_like(values, fill))
        blocks.append(Block(f"{name}.{i}", layer, [PrunableWeight(f"{name}.{i}.weight", layer)]))
    return Chain(name, blocks)


def _models() -> list[tuple[str, list[Chain]]]:
    return [
        ("equal blocks", [_chain("main", [16] * 8)]),
        ("blocks of different sizes", [_chain("main", [2, 64, 8, 128, 4])]),
        ("one block", [_chain("main", [16])]),
        ("two blocks", [_chain("main", [16, 16])]),
        ("two chains", [_chain("vision", [16] * 5), _chain("text", [4, 32, 8])]),
        ("constant weights", [_chain("main", [16] * 4, fill=0.1)]),
        ("zero weights", [_chain("main", [16] * 4, fill=0.0)]),
    ]


@_check("is built, and has the name it is offered under")
def _built(subject: AllocatorSubject) -> None:
    built(subject)


@_check("meets the budget of every chain, with rates in [0, 1]")
def _budget(subject: AllocatorSubject) -> None:
    for what, chains in _models():
        for target in _TARGETS:
            schedule = subject.allocate(chains, target)
            require(
                isinstance(schedule, Schedule),
                f"`allocate` gave {type(schedule).__name__}, not Schedule",
            )
            for chain in chains:
                rates = schedule.of(chain)
                wrong = [rate for rate in rates if not 0.0 <= rate <= 1.0]  # NaN is none of these
                require(not wrong, f"on {what} at S = {target} it gives a block the rate {wrong}")
                mean = weighted_mean([block.parameters for block in chain.blocks], rates)
                require(
                    abs(mean - target) <= 1e-6,
                    f"on {what} it cuts {mean:.6f} of chain {chain.name!r}, and {target} was asked "
                    "for (atp_core.allocation.budget.solve_intercept meets it)",
                )
            require(
                len(list(schedule)) == sum(len(chain.blocks) for chain in chains),
                f"on {what} it gives rates to blocks that are not there",
            )


@_check("says what it is in the schedule, which survives JSON")
def _told(subject: AllocatorSubject) -> None:
    chains = _models()[0][1]
    schedule = subject.allocate(chains, 0.5)
    require(
        schedule.allocation == subject.name,
        f"the schedule says it is of {schedule.allocation!r}",
    )
    require(abs(schedule.sparsity - 0.5) < 1e-9, f"the schedule says S = {schedule.sparsity}")
    again = Schedule.from_dict(schedule.to_dict())
    require(again.digest == schedule.digest, "the schedule changes on its way through JSON")


@_check("changes no weight, and decides the same twice")
def _pure(subject: AllocatorSubject) -> None:
    for what, chains in _models():
        weights = [w.matrix().clone() for c in chains for b in c.blocks for w in b.weights]
        first, again = (subject.allocate(chains, 0.5) for _ in range(2))
        require(first.digest == again.digest, f"on {what} it decides otherwise the next time")
        now = [w.matrix() for c in chains for b in c.blocks for w in b.weights]
        same = all(torch.equal(a, b) for a, b in zip(weights, now, strict=True))
        require(same, f"on {what} it changed weights")


@_check("refuses options it does not have")
def _options(subject: AllocatorSubject) -> None:
    try:
        subject.allocate(_models()[0][1], 0.5, no_such_option=1)
    except UsageError:
        return
    raise CheckFailed("the option 'no_such_option' was passed over; raise UsageError")
