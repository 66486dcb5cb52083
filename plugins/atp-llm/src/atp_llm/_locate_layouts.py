"""How parameters that no nn.Linear owns are stored: fused experts, and a few bare projections."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from atp_core.records import PrunableWeight

__all__ = ["Layout", "StoredWeight", "bare_layout", "expert_orientations"]

# Which side of an expert tensor meets the residual stream, by the name of module and parameter.
_TO_HIDDEN = re.compile(r"(down|w2|\bwo\b|fc2|output|out_proj)")
_FROM_HIDDEN = re.compile(r"(gate|up|w1|w3|v1|\bwi\b|fc1|input|in_proj)")


@dataclass(eq=False)
class StoredWeight(PrunableWeight):
    """A weight whose parameter is stored with other dimensions than it is used with.

    Attributes:
        stored: the parameter is viewed with this shape before `index` and `transposed` apply,
            e.g. (experts, ffn, hidden) where it is stored (experts · ffn, hidden).
    """

    stored: tuple[int, ...] = ()

    def matrix(self) -> torch.Tensor:
        """The view itself, shape (out_features, in_features); writing to it writes the model."""
        view = self.tensor.view(self.stored)
        for i in self.index:
            view = view[i]
        return view.transpose(0, 1) if self.transposed else view


@dataclass(frozen=True)
class Layout:
    """How to read a parameter as one matrix, or as a stack of them.

    Attributes:
        stored: shape to view it with, (in, out) or (out, in), or a stack (n, …, …) of those.
        transposed: the last two dimensions are (in, out).
        conditional: the matrices are experts.
    """

    stored: tuple[int, ...]
    transposed: bool
    conditional: bool = False


def bare_layout(module: nn.Module, parameter: str, value: torch.Tensor) -> Layout | None:
    """Layout of a bare parameter that is a projection, or None.

    Neither shapes nor flags tell these few: their matrices are square, or flattened together.
    """
    known = (type(module).__name__, parameter)
    rows, rest = value.shape[0], value.numel() // value.shape[0]
    shape = tuple(value.shape)
    match known:
        case ("XLNetRelativeAttention", "q" | "k" | "v" | "r"):  # (in, heads, head_dim)
            # Not "o": its einsum copies it before the product, so no input can be seen.
            return Layout((rows, rest), transposed=True)
        case ("RecurrentGemmaRglru", "input_gate_weight" | "recurrent_gate_weight"):
            return Layout(shape, transposed=True)  # (heads, in, out)
        case ("ZambaMambaMixer", "x_proj_weight" | "dt_proj_weight"):
            return Layout(shape, transposed=False)  # (heads, out, in)
        case ("DbrxExpertGLU", "w1" | "v1" | "w2"):  # (experts · ffn, hidden)
            ffn = int(module.ffn_hidden_size)  # type: ignore[arg-type]
            stacked = (rows // ffn, ffn, rest)
            return Layout(stacked, transposed=parameter == "w2", conditional=True)
    return None


def expert_orientations(model: nn.Module, hidden_size: int) -> dict[type[nn.Module], bool]:
    """Classes of fused experts → whether their tensors are stored (experts, in, out).

    A class whose shapes leave it open in one module (a square matrix) is settled by another.

    Args:
        model: the model.
        hidden_size: width of the residual stream, which gates and up-projections read and
            down-projections write.
    """
    found: dict[type[nn.Module], bool] = {}
    for path, module in model.named_modules():
        if type(module) in found:
            continue
        # transformers states it on classes decorated with `use_experts_implementation`.
        declared = getattr(module, "is_transposed", None)
        if isinstance(declared, bool):
            found[type(module)] = declared
            continue
        votes = set(_votes(path.rsplit(".", 1)[-1], module, hidden_size))
        if len(votes) == 1:
            found[type(module)] = votes.pop()
    return found


def _votes(name: str, module: nn.Module, hidden_size: int) -> Iterable[bool]:
    for parameter, value in module.named_parameters(recurse=False):
        if value.dim() != 3 or (value.shape[1] == hidden_size) == (value.shape[2] == hidden_size):
            continue
        label = f"{name}.{parameter}"
        hidden_first = value.shape[1] == hidden_size
        if _TO_HIDDEN.search(label):
            yield not hidden_first
        elif _FROM_HIDDEN.search(label):
            yield hidden_first
