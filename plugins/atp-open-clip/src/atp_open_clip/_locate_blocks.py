"""Finding the blocks of a tower: the layers it repeats, in the order in which they run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from torch import nn

__all__ = ["blocks_of"]

# What comes before the first block, between stages and after the last, even where it repeats.
_ASIDE = re.compile(r"^(stem|downsample|pool|head|attn_?pool.*|final_conv|fc|classifier)$")

_Named = tuple[str, nn.Module]


def blocks_of(name: str, tower: nn.Module) -> Iterator[_Named]:
    """Qualified name and module of every block of `tower`, in order of execution.

    Args:
        name: qualified name of `tower`.
        tower: the image tower, the text tower, or CoCa's decoder.
    """
    kinds = _repeated(tower, at_least=2) or _repeated(tower, at_least=1)
    cross = getattr(tower, "cross_attn", None)
    if isinstance(cross, nn.ModuleList):
        # CoCa's decoder runs a layer of each list in turn.
        for i, layer in enumerate(tower.get_submodule("resblocks").children()):
            yield f"{name}.resblocks.{i}", layer
            yield f"{name}.cross_attn.{i}", cross[i]
        return
    yield from _in_lists(name, tower, kinds)


def _in_lists(name: str, module: nn.Module, kinds: set[type[nn.Module]]) -> Iterator[_Named]:
    """The outermost modules of `kinds` that stand in a list or sequence."""
    for child, inner in module.named_children():
        path = f"{name}.{child}"
        if _is_list(module) and type(inner) in kinds:
            yield path, inner
        elif not _ASIDE.match(child):
            yield from _in_lists(path, inner, kinds)


def _repeated(module: nn.Module, at_least: int) -> set[type[nn.Module]]:
    """Classes of the layers that lists under `module` repeat.

    Of lists within lists, those count that hold most of what the outer layers hold: a stage is
    taken apart into its blocks, a block that has branches in a list is not.

    Args:
        module: where to look.
        at_least: how many layers of a class make a list of layers.
    """
    found: set[type[nn.Module]] = set()
    layers = [child for child in module.children() if _is_composite(child)]
    counts = Counter(type(layer) for layer in layers)
    repeats = _is_list(module) and bool(counts) and max(counts.values()) >= at_least
    for name, child in module.named_children():
        if _ASIDE.match(name):
            continue
        inner = _repeated(child, at_least)
        is_layer = repeats and counts[type(child)] >= at_least
        is_stage = bool(inner) and 2 * _held_by(child, inner) >= _matrices(child)
        found |= {type(child)} if is_layer and not is_stage else inner
    return found


def _held_by(module: nn.Module, kinds: set[type[nn.Module]]) -> int:
    return sum(_matrices(layer) for _, layer in _in_lists("", module, kinds))


def _matrices(module: nn.Module) -> int:
    """Number of weights in matrices and convolutions."""
    return sum(p.numel() for p in module.parameters() if p.dim() >= 2)


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential)


def _is_composite(module: nn.Module) -> bool:
    """Whether a module has parts and two matrices: a layer has, a convolution of a stem not."""
    matrices = [p for p in module.parameters() if p.dim() >= 2]
    return next(module.children(), None) is not None and len(matrices) > 1
