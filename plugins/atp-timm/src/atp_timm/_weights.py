"""The prunable weights of one block, and what in it stays dense and why."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Final

from torch import nn

from atp_core.locating import Found
from atp_core.records import PrunableWeight

from ._blocks import is_convolution, is_depthwise
from ._trace import Trace, Use

__all__ = ["DEPTHWISE", "Scan", "output_layers"]

DEPTHWISE: Final = "depthwise convolution: one input channel an output"
_NARROW: Final = "grouped convolution with few inputs a group"
_ROUTER: Final = re.compile(r"[.](routing_fn|router)[.]")
_LEAST_MIXED: Final = 16
_LEAST_INPUTS: Final = 4  # channels a group, below which a convolution is as good as depthwise


class Scan:
    """Collects the weights of one block after another; a shared weight belongs to the first.

    Args:
        model: the whole model.
        seen: what its forward pass does.
    """

    def __init__(self, model: nn.Module, seen: Trace) -> None:
        self._seen = seen
        self._taken: set[int] = set()
        names: dict[int, str] = {}
        for name, value in model.named_parameters():
            names[id(value)] = name
        self._names = names
        self._heads = {
            id(part): heads
            for module in model.modules()
            if isinstance(heads := getattr(module, "num_heads", None), int)
            for part in module.children()
        }
        self._output = output_layers(model)

    def block(self, name: str, block: nn.Module) -> Found:
        """What `block`, whose qualified name is `name`, holds that earlier blocks do not."""
        found = Found()
        for path, module in block.named_modules(prefix=name):
            for parameter, value in module.named_parameters(recurse=False):
                if value.dim() < 2 or id(value) in self._taken:
                    continue
                self._taken.add(id(value))
                full = f"{path}.{parameter}"
                uses = self._uses(value)
                why = self._why_dense(name, module, value, uses)
                if why is None:
                    made = list(_views(full, module, parameter, value, uses[0]))
                    found.weights += made
                    why = None if made else "no matrix product reads it in place"
                if why is not None:
                    found.dense[full] = why
        return found

    def _uses(self, value: nn.Parameter) -> Sequence[Use]:
        return self._seen.uses.get(self._names[id(value)], ())

    def _why_dense(
        self, block: str, module: nn.Module, value: nn.Parameter, uses: Sequence[Use]
    ) -> str | None:
        name = self._names[id(value)]
        if module in self._output:
            return "output layer"
        if _ROUTER.search(name):
            return "router: it picks kernels"
        if isinstance(module, nn.Embedding):
            return "embedding"
        if isinstance(module, nn.RNNBase):
            return "recurrent layer: its products are not visible one by one"
        if is_depthwise(module):
            return DEPTHWISE
        if not uses:
            if name not in self._seen.read:
                return "not used in a forward pass"
            layer = isinstance(module, nn.Linear) or is_convolution(module)
            changed = "changed before it multiplies (standardized weights)"
            return changed if layer else "not a matrix: scale, embedding or bias table"
        if any(use.transposed for use in uses):
            return "transposed convolution"
        if not all(use.image for use in uses):
            return "multiplies positions, not the image"
        if not any(block in use.inside for use in uses):
            return "multiplied outside its block"
        if uses[0].groups > 1 and uses[0].shape[1] < _LEAST_INPUTS:
            return _NARROW
        heads = self._heads.get(id(module))
        if heads is not None and max(value.shape[:2]) <= heads and value[0].numel() <= heads:
            return "mixes attention heads"
        return None


def _views(
    name: str, module: nn.Module, parameter: str, value: nn.Parameter, use: Use
) -> Iterator[PrunableWeight]:
    """The 2-D views of a parameter, as its product shows them; none where it shows none.

    Bare parameters that mix a few kernels (conditional convolutions) are none either.
    """
    width = math.prod(value.shape[1:])
    if use.groups > 1:
        rows = value.shape[0] // use.groups
        for group in range(use.groups):
            yield PrunableWeight(
                f"{name}[{group}]", module, parameter, rows=(group * rows, (group + 1) * rows)
            )
    elif use.groups == 1:
        if use.shape[1:] == value.shape[1:] or math.prod(use.shape[1:]) == width:
            yield PrunableWeight(name, module, parameter)
    elif len(use.shape) == 2 and use.shape[1] == width and use.strides == (width, 1):
        yield PrunableWeight(name, module, parameter)
    elif use.shape == (value.shape[1], value.shape[0]) and value.shape[0] >= _LEAST_MIXED:
        yield PrunableWeight(name, module, parameter, transposed=True)


def output_layers(model: nn.Module) -> set[nn.Module]:
    """The output layers, as the model tells them."""
    ask = getattr(model, "get_classifier", None)
    try:
        found = ask() if ask is not None else None
    except (AttributeError, NotImplementedError):
        return set()
    outputs = found if isinstance(found, tuple | list) else (found,)
    layers = [output for output in outputs if isinstance(output, nn.Module)]
    return {part for layer in layers for part in layer.modules()}
