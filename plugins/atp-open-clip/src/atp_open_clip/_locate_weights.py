"""The prunable weights of one block, and what in it stays dense and why."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from atp_core.locating import Found
from atp_core.records import PrunableWeight

__all__ = ["Scan"]

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

# Standardized anew in every forward: the product does not read the parameter itself.
_REWRITTEN = re.compile(r"(Std|Standardized)Conv")
_EMBEDDING = re.compile(r"Embedding|RelPos|PositionBias|RotaryEmbed")
_POSITION = re.compile(r"position|pos_embed")


class Scan:
    """Collects the weights of one block after another; a shared weight belongs to the first."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def block(self, name: str, block: nn.Module) -> Found:
        """What `block`, whose qualified name is `name`, holds that earlier blocks do not."""
        found = Found()
        for path, module in block.named_modules(prefix=name):
            for parameter, value in module.named_parameters(recurse=False):
                if id(value) in self._seen:
                    continue
                self._seen.add(id(value))
                full = f"{path}.{parameter}"
                if value.dim() < 2:
                    # Biases and the scales of normalization need no word.
                    if parameter not in ("weight", "bias") and not parameter.endswith("_bias"):
                        found.dense[full] = "vector"
                    continue
                reason = _why_dense(module, parameter, value)
                if reason is None:
                    found.weights += _weights(full, module, parameter, value)
                else:
                    found.dense[full] = reason
        return found


def _why_dense(module: nn.Module, parameter: str, value: nn.Parameter) -> str | None:
    """Why a parameter stays dense, or None."""
    kind = type(module).__name__
    if isinstance(module, nn.Embedding) or _EMBEDDING.search(kind) or _POSITION.search(parameter):
        return "embedding"
    if isinstance(module, _Convolution):
        if _REWRITTEN.search(kind):
            return "standardized in every forward pass"
        return "depthwise convolution" if value.shape[1] == 1 and module.groups > 1 else None
    if isinstance(module, nn.Linear) or parameter in _ATTENTION:
        return None
    if value.numel() == max(value.shape):
        return "vector"
    return "no matrix product is known to read it in place"


# Projections that attention keeps as bare parameters: nn.MultiheadAttention, and open_clip's own.
_ATTENTION = frozenset({"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"})


def _weights(
    name: str, module: nn.Module, parameter: str, value: nn.Parameter
) -> Iterator[PrunableWeight]:
    """The matrices of a parameter: one for each part that multiplies an input of its own."""
    rows = int(value.shape[0])
    if parameter == "in_proj_weight":
        size = rows // 3
        for i, letter in enumerate("qkv"):
            part = (i * size, (i + 1) * size)
            yield PrunableWeight(f"{name}[{letter}]", module, parameter, rows=part)
    elif isinstance(module, _Convolution) and module.groups > 1:
        size = rows // module.groups
        for start in range(0, rows, size):
            part = (start, start + size)
            yield PrunableWeight(f"{name}[{part[0]}:{part[1]}]", module, parameter, rows=part)
    else:
        yield PrunableWeight(name, module, parameter)
