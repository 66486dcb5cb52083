"""Whether what a plugin located is there: every block in the model, every weight in its block.

Looks at modules, names and where views lie in memory; no number is read or copied, so it works
on the meta device as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from ._overlap import Lattice, overlapping
from .records import Block, Chain, PrunableWeight

__all__ = ["located_faults"]


def located_faults(model: nn.Module, chains: Sequence[Chain]) -> Iterator[str]:
    """What is wrong with located chains whose parts are of the right types, each with its remedy.

    Args:
        model: the whole model.
        chains: what was located in it.
    """
    blocks = [block for chain in chains for block in chain.blocks]
    weights = [weight for block in blocks for weight in block.weights]
    yield from _twice("chain", [chain.name for chain in chains])
    yield from _twice("block", [block.name for block in blocks])
    yield from _twice("weight", [weight.name for weight in weights])
    for chain in chains:
        if not chain.blocks:
            yield (
                f"located the chain {chain.name!r} without a block; leave out what has nothing to "
                "prune"
            )
    inside = {id(module) for module in model.modules()}
    known: dict[int, str] = {}
    for block in blocks:
        other = known.setdefault(id(block.module), block.name)
        if id(block.module) not in inside:
            yield (
                f"located the block {block.name!r}, whose module ({type(block.module).__name__}) "
                "is no part of the model; take it from LoadedModel.model"
            )
        elif other != block.name:
            yield (
                f"located one module as the blocks {other!r} and {block.name!r}; a module that "
                "runs twice is one block"
            )
    placed: dict[int, list[tuple[Lattice, PrunableWeight]]] = {}
    for block in blocks:
        own = {id(module) for module in block.module.modules()}
        for weight in block.weights:
            fault = _membership(weight, block, own, inside) or _memory(weight)
            if fault is not None:
                yield f"located the weight {weight.name!r} of block {block.name!r}, {fault}"
            elif (storage := _storage(weight.matrix())) is not None:
                placed.setdefault(storage, []).append((Lattice.of(weight.matrix()), weight))
    for group in placed.values():
        for one, another in overlapping(group):
            yield (
                f"located memory twice, as {one.name!r} and as {another.name!r}; list each weight "
                "once, one that is shared with the first block that has it"
            )


def _twice(what: str, names: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"located two {what}s called {name!r}; give each a name of its own"
        seen.add(name)


def _membership(
    weight: PrunableWeight, block: Block, own: set[int], inside: set[int]
) -> str | None:
    """Why a weight does not belong to its block, or None."""
    kind = type(weight.module).__name__
    if id(weight.module) not in inside:
        return f"whose module ({kind}) is no part of the model; take it from LoadedModel.model"
    if id(weight.module) not in own:
        return f"whose module ({kind}) lies outside the block; list it with the block it is in"
    return None


def _memory(weight: PrunableWeight) -> str | None:
    """Why what a weight describes is no matrix in the memory of a parameter, or None."""
    module, name = weight.module, weight.parameter
    value = module._parameters.get(name, module._buffers.get(name))
    if value is None:
        return f"and its module has {_has(module, name)}"
    if not value.is_floating_point():
        return (
            f"whose parameter {name!r} holds {value.dtype}; packed or quantized weights cannot be "
            "pruned in place, leave it out"
        )
    try:
        matrix = weight.matrix()
        shape = tuple(matrix.shape)
    except Exception as error:
        reason = " ".join(str(error).split())
        return (
            f"and its view of {name!r} {tuple(value.shape)} cannot be taken "
            f"({type(error).__name__}: {reason}); mend {_view(weight)}"
        )
    plain = type(weight).matrix is PrunableWeight.matrix
    if plain and value.dim() - len(weight.index) < 2:
        # Its view would be a matrix with a single column.
        return (
            f"whose {name!r} {tuple(value.shape)} at index {tuple(weight.index)} is no matrix; "
            "leave vectors out"
        )
    if len(shape) != 2 or 0 in shape:
        return (
            f"whose view of {name!r} {tuple(value.shape)} is {shape}, not a matrix with elements; "
            f"mend {_view(weight)}"
        )
    rows = weight.rows
    if rows is not None and not (0 <= rows[0] < rows[1] and shape[0] == rows[1] - rows[0]):
        return (
            f"whose rows {rows} lie outside {name!r} {tuple(value.shape)}"
            f"{', transposed' if weight.transposed else ''}; rows are [start, stop)"
        )
    if _storage(matrix) != _storage(value):
        return (
            f"whose view is a copy and not the memory of {name!r}, so that writing to it would not "
            "change the model; describe a view (index, transposed, rows)"
        )
    if 0 in matrix.stride() and matrix.numel() > 1:
        return f"whose view repeats elements of {name!r} {tuple(value.shape)}; list the original"
    return None


def _has(module: nn.Module, name: str) -> str:
    """What a module has instead of the parameter `name`, with the remedy."""
    if isinstance(getattr(module, name, None), torch.Tensor):
        return (
            f"{name!r} computed anew whenever it is read (a parametrization, say); locate the "
            "parameter it is made of, or leave it out"
        )
    names = [other for other, value in module._parameters.items() if value is not None]
    return f"no parameter {name!r}; it has {', '.join(names) or 'none of its own'}"


def _view(weight: PrunableWeight) -> str:
    if type(weight).matrix is not PrunableWeight.matrix:
        return f"{type(weight).__name__}.matrix"
    return f"index={weight.index}, transposed={weight.transposed}, rows={weight.rows}"


def _storage(tensor: torch.Tensor) -> int | None:
    """What tells one storage from another, also on the meta device; None where it is hidden."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None
