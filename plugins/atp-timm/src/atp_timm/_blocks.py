"""Which modules of a vision model are its blocks.

No table of architectures. Blocks stand in lists (`nn.Sequential`, `nn.ModuleList`), which may be
nested in stages and in lists; what a list of layers with two matrices or more holds is a block.
A module that consists of such a list, but for a little (a stage with its downsampling), is a
stage and its inner blocks count; one that has as much of its own (a MobileViT block) is a block.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from torch import nn

__all__ = ["find_blocks", "is_convolution", "is_depthwise", "is_matrix_layer", "matrices"]

# A stage's inner blocks hold at least this share of its matrix parameters, over all stages of one
# class. Stages of the models in timm reach 0.8 and more.
_STAGE_SHARE: Final = 0.7
# Parts of a block, which may stand in a list of their own (parallel attention).
_PART: Final = re.compile(r"(Attention|Attn|Mlp|FeedForward|SEModule|SqueezeExcite)$")

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_List = nn.Sequential | nn.ModuleList | nn.ModuleDict


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution, not a transposed one."""
    return isinstance(module, _Convolution)


def is_depthwise(module: nn.Module) -> bool:
    """Whether each output channel of a convolution sees one input channel."""
    return isinstance(module, _Convolution) and module.in_channels == module.groups


def is_matrix_layer(module: nn.Module) -> bool:
    """Whether a module has a matrix that ATP could prune, by its class."""
    if isinstance(module, nn.Linear | nn.MultiheadAttention):
        return True
    return isinstance(module, _Convolution) and not is_depthwise(module)


def matrices(module: nn.Module) -> list[nn.Module]:
    """The layers under `module` that have a matrix."""
    return [part for part in module.modules() if is_matrix_layer(part)]


def find_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules of the blocks, in order of registration; empty where there are none."""
    for least, leaves in ((2, False), (1, False), (1, True)):
        found = _Finder(model, least, leaves).find()
        if found:
            return found
    return []


class _Finder:
    """One search, with one idea of what a block is at least.

    Args:
        model: the model.
        least: layers with a matrix that at least one block of a list has.
        leaves: single layers in a list count as blocks (VGG).
    """

    def __init__(self, model: nn.Module, least: int, leaves: bool) -> None:
        self._model = model
        self._least = least
        self._leaves = leaves
        self._names = {id(module): name for name, module in model.named_modules()}
        self._layers = {id(module): matrices(module) for module in model.modules()}
        self._stage: dict[type, bool] = {}
        # Modules within modules of their class (DLA's trees) are no blocks either.
        self._trees = {
            type(module)
            for module in model.modules()
            if not isinstance(module, _List)
            and any(type(part) is type(module) for part in module.modules() if part is not module)
        } | self._unlisted()

    def _unlisted(self) -> set[type]:
        """Classes that hold blocks of one class as attributes, as a list would (RegNet)."""
        kinds: dict[type, list[list[type]]] = {}
        for module in self._model.modules():
            if module is not self._model and not isinstance(module, _List):
                parts = [part for part in module.children() if self._layers[id(part)]]
                large = [type(part) for part in parts if self._large(part) and _is_whole(part)]
                kinds.setdefault(type(module), []).append(
                    large if len(large) == len(parts) and len(set(large)) == 1 else []
                )
        return {
            kind
            for kind, found in kinds.items()
            if all(found) and any(len(parts) > 1 for parts in found)
        }

    def find(self) -> list[tuple[str, nn.Module]]:
        """The blocks, each once."""
        children = list(self._model.children())
        inner = [self._stack(child) for child in children]
        counts = Counter(type(child) for child in children)
        direct = [
            i
            for i, child in enumerate(children)
            if not inner[i] and not isinstance(child, _List) and self._large(child)
        ]
        # Blocks may be attributes of the model itself (Inception): those of a class that repeats,
        # and what stands between them. Where single layers are blocks, all others are too.
        repeated = [i for i in direct if self._leaves or counts[type(children[i])] > 1]
        for i in direct:
            if repeated and repeated[0] <= i <= repeated[-1]:
                inner[i] = [children[i]]
        unique = {id(block): block for blocks in inner for block in blocks}
        return [(self._names[key], block) for key, block in unique.items()]

    def _stack(self, module: nn.Module) -> list[nn.Module]:
        """The blocks that `module` is made of, if any of them is large: else it is a stem."""
        found = self._inside(module)
        return found if any(map(self._large, found)) else []

    def _inside(self, module: nn.Module) -> list[nn.Module]:
        """The blocks that `module` is made of; empty where it is not made of blocks."""
        if isinstance(module, _List):
            children = list(module.children())
            counts = Counter(type(child) for child in children)
            found = []
            for child in children:
                blocks = self._inside(child)
                if not blocks and self._is_block(child, repeated=counts[type(child)] > 1):
                    blocks = [_unwrapped(child)]
                found += blocks
            return found
        if not any(isinstance(part, _List) for part in module.modules()) and (
            type(module) not in self._trees
        ):
            return []
        return list(self._parts(module)) if self._is_stage(type(module)) else []

    def _parts(self, module: nn.Module) -> Iterator[nn.Module]:
        """The blocks of a stage: those in its lists, and whatever else of it is as large.

        What has no list of blocks is no stage, unless its parts are as good as listed.
        """
        children = list(module.children())
        stacks = [self._stack(child) for child in children]
        if not any(stacks) and type(module) not in self._trees:
            return
        for child, blocks in zip(children, stacks, strict=True):
            yield from blocks
            if not blocks and self._large(child) and _is_whole(child):
                yield child

    def _is_stage(self, kind: type) -> bool:
        """Whether modules of one class are little more than their inner blocks."""
        if kind not in self._stage:
            self._stage[kind] = True  # of a tree, while its own share is computed
            whole = inner = 0
            for module in self._model.modules():
                if type(module) is kind:
                    whole += self._size(module)
                    inner += sum(map(self._size, self._parts(module)))
            self._stage[kind] = kind in self._trees or inner >= _STAGE_SHARE * max(whole, 1)
        return self._stage[kind]

    def _is_block(self, module: nn.Module, repeated: bool) -> bool:
        layers = self._layers[id(module)]
        if not layers or not _is_whole(module):
            return False
        if next(module.children(), None) is None:
            return self._leaves
        # A lone layer with its normalization leads from one stage to the next.
        return len(layers) > 1 or repeated or any(map(is_depthwise, module.modules()))

    def _large(self, module: nn.Module) -> bool:
        return len(self._layers[id(module)]) >= self._least and (
            self._leaves or next(module.children(), None) is not None
        )

    def _size(self, module: nn.Module) -> int:
        return sum(
            parameter.numel()
            for layer in self._layers[id(module)]
            for parameter in layer.parameters(recurse=False)
            if parameter.dim() > 1
        )


def _is_whole(module: nn.Module) -> bool:
    """Whether a module is no part of a block, and has a forward, which a bare list has not."""
    parts = (module, *module.children()) if isinstance(module, nn.Sequential) else (module,)
    if any(_PART.search(type(part).__name__) for part in parts):
        return False
    return type(module).forward is not nn.Module.forward


def _unwrapped(module: nn.Module) -> nn.Module:
    """What a list of one holds."""
    while isinstance(module, nn.Sequential) and len(module) == 1:
        module = module[0]
    return module
