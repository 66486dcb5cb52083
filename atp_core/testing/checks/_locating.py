"""Checks of `atp_locate`: what is located is there, is the model's own, and is in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from ...records import LoadedModel, PrunableWeight
from .._check import checker, named, require
from .._explicit import execution_order
from .._walk import Walk, state_bits, weights_of

__all__ = ["CHECKS"]

CHECKS: list[tuple[str, Callable[[Walk], None]]] = []
_check = checker(CHECKS)


@_check("has chains of blocks with weights, all named differently")
def _named(walk: Walk) -> None:
    chains = walk.chains
    require(bool(chains), "no chain was located")
    for chain in chains:
        require(bool(chain.blocks), f"chain {chain.name!r} has no blocks")
        for block in chain.blocks:
            require(bool(block.weights), f"block {block.name} has no weights; leave it out")
        for part, why in chain.dense.items():
            require(bool(why.strip()), f"{part} stays dense and no reason is given")
    for what, names in (
        ("chains", [chain.name for chain in chains]),
        ("blocks", [block.name for chain in chains for block in chain.blocks]),
        ("weights", [weight.name for weight in weights_of(chains)]),
    ):
        double = [name for name, count in Counter(names).items() if count > 1]
        require(not double, f"two {what} are called {named(double)}")


@_check("locates views of the model's own parameters, none twice")
def _own(walk: Walk) -> None:
    model = walk.dense.loaded.model
    modules = {id(module): name for name, module in model.named_modules()}
    counted: dict[tuple[int, str], torch.Tensor] = {}
    for chain in walk.chains:
        for block in chain.blocks:
            require(id(block.module) in modules, f"block {block.name} is no part of the model")
            inside = {id(module) for module in block.module.modules()}
            for weight in block.weights:
                require(
                    id(weight.module) in inside,
                    f"{weight.name} belongs to a module outside its block {block.name}",
                )
                parameter = weight.tensor
                require(
                    weight.matrix().untyped_storage().data_ptr()
                    == parameter.untyped_storage().data_ptr(),
                    f"{weight.name} is a copy: writing to it would not change the model",
                )
                # Counts how often each number of the parameter is located, by the same view.
                key = (parameter.untyped_storage().data_ptr(), str(tuple(parameter.shape)))
                count = counted.setdefault(key, torch.zeros(parameter.shape, dtype=torch.int8))
                _same_view(weight, count).add_(1)
                require(
                    int(count.max()) == 1,
                    f"{weight.name} covers numbers that another located weight covers too",
                )


def _same_view(weight: PrunableWeight, tensor: torch.Tensor) -> torch.Tensor:
    shell: Any = SimpleNamespace(**{weight.parameter: tensor})
    return replace(weight, module=shell).matrix()


@_check("locates no parameter that something outside the blocks uses too")
def _not_tied(walk: Walk) -> None:
    inside = {
        id(module)
        for chain in walk.chains
        for block in chain.blocks
        for module in block.module.modules()
    }
    outside = {
        parameter.untyped_storage().data_ptr(): f"{name}.{key}".lstrip(".")
        for name, module in walk.dense.loaded.model.named_modules()
        if id(module) not in inside
        for key, parameter in module.named_parameters(recurse=False)
    }
    for weight in weights_of(walk.chains):
        other = outside.get(weight.tensor.untyped_storage().data_ptr())
        require(
            other is None,
            f"{weight.name} shares its numbers with {other}, which is outside the blocks: pruning "
            "one would change the other",
        )


@_check("is left as it was by locate, which says the same twice")
def _pure(walk: Walk) -> None:
    session = walk.session()
    loaded = session.loaded
    bits, state = state_bits(loaded), list(_state(loaded))
    names = [
        [weight.name for weight in weights_of(session.locate(loaded, every=True))]
        for _ in range(2)
    ]
    require(names[0] == names[1], "locating twice gives different weights")
    require(state_bits(loaded) == bits, "locating changed numbers of the model")
    changed = [old for old, new in zip(state, _state(loaded), strict=True) if old != new]
    require(not changed, f"locating changed {named([str(entry[0]) for entry in changed])}")


def _state(loaded: LoadedModel) -> Iterator[tuple[Any, ...]]:
    """Of every module: name, identity, mode, hooks and which parameters want gradients."""
    for name, module in loaded.model.named_modules():
        hooks = (len(module._forward_hooks), len(module._forward_pre_hooks))
        wants = [(k, p.requires_grad) for k, p in module.named_parameters(recurse=False)]
        yield name or "the model", id(module), module.training, hooks, wants


@_check("has its chains and blocks in the order of execution")
def _ordered(walk: Walk) -> None:
    order = execution_order(walk.chains, walk.dense.calibration)
    first = list(dict.fromkeys(order))
    for chain in walk.chains:
        located = [block.name for block in chain.blocks]
        run = [name for name in first if name in located]
        missing = [name for name in located if name not in run]
        require(not missing, f"the calibration forward never calls {named(missing)}")
        require(
            run == located,
            f"chain {chain.name!r} is located as {named(located)}, and runs as {named(run)}",
        )
    starts = [first.index(chain.blocks[0].name) for chain in walk.chains]
    require(
        starts == sorted(starts),
        f"the chains {named([c.name for c in walk.chains])} begin in another order than located",
    )
