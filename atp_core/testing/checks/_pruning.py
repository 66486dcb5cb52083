"""Checks of pruning: bits at rate 0, zeros at rate 1, the budget between, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.utils._pytree import tree_leaves

from ...records import Schedule
from .._check import checker, named, require
from .._walk import Walk, bits, state_bits, uniform, weights_of

__all__ = ["CHECKS"]

CHECKS: list[tuple[str, Callable[[Walk], None]]] = []
_check = checker(CHECKS)

_METHODS = ("magnitude", "wanda", "sparsegpt")


@_check("keeps every bit at rate 0")
def _nothing(walk: Walk) -> None:
    for method in _METHODS:
        session = walk.everything(method=method)
        before = state_bits(session.loaded)
        session.prune(uniform(session.chains, 0.0), session.method(), "rate 0")
        changed = [name for name, digest in state_bits(session.loaded).items()
                   if digest != before[name]]
        require(not changed, f"{method} at rate 0 changed {named(changed)}")


@_check("is all zeros at rate 1")
def _all(walk: Walk) -> None:
    for method in _METHODS:
        session = walk.everything(method=method)
        report = session.prune(uniform(session.chains, 1.0), session.method(), "rate 1")
        for weight in weights_of(session.chains):
            left = int((weight.matrix() != 0).sum())
            require(left == 0, f"{method} at rate 1 left {left} weights in {weight.name}")
        require(report.achieved == 1.0, f"the report says {report.achieved} of the weights are cut")


@_check("meets the budget, and changes nothing but located weights")
def _budget(walk: Walk) -> None:
    for method in _METHODS:
        session = walk.everything(method=method)
        schedule = _rising(walk)
        before = session.loaded.model.state_dict()
        outside = bits({name: value for name, value in before.items()})
        report = session.prune(schedule, session.method(), "budget")
        for chain, block, rate in schedule:
            _, found = next(
                (c, b) for c in session.chains for b in c.blocks
                if (c.name, b.name) == (chain, block)
            )
            zeros = sum(int((weight.matrix() == 0).sum()) for weight in found.weights)
            due = rate * found.parameters
            require(
                abs(zeros - due) <= 1.0,
                f"{method} left block {block} with {zeros} zeros at rate {rate:.4f}, which is "
                f"{due:.1f} of its {found.parameters} weights",
            )
        told = {entry.name: entry.zeros for entry in report.blocks}
        require(
            len(told) == sum(len(chain.blocks) for chain in session.chains),
            f"the report tells of {len(told)} blocks",
        )
        touched = {weight.tensor.untyped_storage().data_ptr() for weight in
                   weights_of(session.chains)}
        changed = [
            name
            for name, value in session.loaded.model.state_dict().items()
            if value.untyped_storage().data_ptr() not in touched
            and bits({name: value})[name] != outside[name]
        ]
        require(not changed, f"{method} changed {named(changed)}, which was not located")


@_check("gives the same bits for the same seed")
def _repeatable(walk: Walk) -> None:
    for method in _METHODS:
        found = []
        for _ in range(2):
            session = walk.everything(method=method)
            session.prune(_rising(walk), session.method(), "again")
            found.append(state_bits(session.loaded))
        changed = [name for name, digest in found[0].items() if found[1][name] != digest]
        require(not changed, f"{method} gives other numbers in {named(changed)} on a second run")


@_check("still runs when pruned, with finite outputs in every block")
def _finite(walk: Walk) -> None:
    session = walk.everything()
    session.prune(_rising(walk), session.method(), "forward")
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        block.module.register_forward_hook(partial(_keep, outputs, block.name))
        for chain in session.chains
        for block in chain.blocks
    ]
    try:
        with torch.inference_mode():
            session.calibration.forward(session.calibration.batches[0])
    finally:
        for handle in handles:
            handle.remove()
    wrong = [name for name, value in outputs.items() if not bool(torch.isfinite(value).all())]
    require(not wrong, f"the output of {named(wrong)} is not finite once the model is pruned")


def _keep(
    outputs: dict[str, torch.Tensor], name: str, module: object, args: object, output: object
) -> None:
    """Keep the tensors of a block's output; returns None, which leaves the output as it is."""
    found = [leaf.float().flatten() for leaf in tree_leaves(output) if _floating(leaf)]
    outputs[name] = torch.cat(found) if found else torch.zeros(())


def _floating(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()


def _rising(walk: Walk) -> Schedule:
    """The progression with half the largest β at S = 0.5, as `--allocation atp` makes it."""
    session = walk.dense
    allocator = session.plugins.offers("allocators").create("atp")
    beta = session.beta_limit(walk.chains) / 2
    return session.allocate(allocator, walk.chains, beta=beta)
