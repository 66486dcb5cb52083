"""Replacing the linear layers of a model whose zeros pay, and putting them back."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ._library import kernels
from ._module import SparseLinear
from ._tune import choose
from ._weight import FORMATS, Format, pack, usable_kernel

__all__ = ["Layer", "Report", "accelerate", "restore"]


@dataclass(frozen=True)
class Layer:
    """What became of one linear layer.

    Attributes:
        name: in the model.
        shape: (out_features, in_features).
        sparsity: share of zeros.
        kernel: "sparse", "sparse up to N rows", or "dense".
        reason: why it stays dense; empty where it does not.
        dense_bytes: of the weight before.
        bytes: of the weight in all the forms it is held in now.
    """

    name: str
    shape: tuple[int, int]
    sparsity: float
    kernel: str
    reason: str
    dense_bytes: int
    bytes: int


@dataclass(frozen=True)
class Report:
    """What `accelerate` did.

    Attributes:
        layers: every linear layer that was looked at.
    """

    layers: Sequence[Layer]

    @property
    def accelerated(self) -> int:
        """How many layers run sparse."""
        return sum(layer.kernel != "dense" for layer in self.layers)

    @property
    def dense_bytes(self) -> int:
        """Bytes of all weights before."""
        return sum(layer.dense_bytes for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes of all weights now."""
        return sum(layer.bytes for layer in self.layers)


def accelerate(
    model: nn.Module,
    *,
    min_sparsity: float = 0.3,
    form: Format = "exact",
    tune: bool = True,
    keep_dense: bool | None = None,
) -> Report:
    """Run the sparse linear layers of a model on sparse kernels, in place; for inference.

    A layer is replaced where enough of its weights are zero and, with `tune`, where a sparse kernel
    is faster for some number of rows (tokens) on this machine. What stays dense is in the report
    with the reason.

    Args:
        model: on the CPU, of any architecture.
        min_sparsity: share of zeros from which a layer is looked at.
        form: "exact" computes with the weights as they are; "int8" rounds them, which is smaller.
        tune: measure which kernel is the faster; without, the sparse one is always taken.
        keep_dense: keep dense weights too, for inputs of many rows that they are faster for. None
            keeps them where unpacking for each such call would cost more than 5 %; False never
            does, for the least memory.

    Raises:
        ValueError: `form` or `min_sparsity` is none.
    """
    if form not in FORMATS:
        raise ValueError(f"form must be one of {', '.join(FORMATS)}, not {form!r}")
    if not 0.0 <= min_sparsity <= 1.0:
        raise ValueError(f"min_sparsity must be in [0, 1], not {min_sparsity}")
    if kernels().library is None:
        warnings.warn(
            f"atp_sparse_cpu: layers stay dense, {kernels().reason}", RuntimeWarning, stacklevel=2
        )
    holders = _holders(model)
    uses = Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    )
    layers = []
    for name, linear in list(model.named_modules()):
        if not isinstance(linear, nn.Linear):
            continue
        weight = linear.weight
        why = _unsuited(linear, form) or (
            "its weight is shared with another module" if uses[id(weight)] > 1 else ""
        )
        shape = (linear.out_features, linear.in_features)
        if weight.device.type == "meta":
            layers.append(Layer(name, shape, 0.0, "dense", why, 0, 0))
            continue
        zeros = 1.0 - int(torch.count_nonzero(weight)) / max(weight.numel(), 1)
        if not why and zeros < min_sparsity:
            why = f"only {zeros:.0%} of its weights are zero"
        replaced = None if why else _replace(linear, form, tune, keep_dense)
        if replaced is None:
            why = why or "the dense product is faster for every number of rows"
            layers.append(Layer(name, shape, zeros, "dense", why, weight.nbytes, weight.nbytes))
            continue
        for parent, child in holders[id(linear)]:
            setattr(parent, child, replaced)
        kernel = "sparse" if replaced.most is None else f"sparse up to {replaced.most} rows"
        layers.append(Layer(name, shape, zeros, kernel, "", weight.nbytes, replaced.nbytes))
    return Report(tuple(layers))


def restore(model: nn.Module) -> int:
    """Put dense layers back; their weights are bit for bit what they were, unless int8.

    Returns:
        How many layers were put back.
    """
    holders, count = _holders(model), 0
    for module in list(model.modules()):
        if isinstance(module, SparseLinear):
            dense = module.dense()
            for parent, child in holders[id(module)]:
                setattr(parent, child, dense)
            count += 1
    return count


def _replace(
    linear: nn.Linear, form: Format, tune: bool, keep_dense: bool | None
) -> SparseLinear | None:
    weight = linear.weight.detach()
    packed = pack(weight, form)
    if not tune:
        return SparseLinear(linear, packed, most=None, keep_dense=False)
    choice = choose(weight.contiguous(), packed)
    if choice.most == 0:
        return None
    keep = choice.keep_dense if keep_dense is None else keep_dense
    return SparseLinear(linear, packed, most=choice.most, keep_dense=keep)


def _unsuited(linear: nn.Linear, form: Format) -> str:
    """Why a layer cannot be replaced, whatever its zeros."""
    if type(linear) is not nn.Linear:
        return f"{type(linear).__name__} is computed by its owner, which reads the weight itself"
    if linear.weight.device.type != "cpu":
        return f"its weight is on {linear.weight.device}"
    if linear.weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"its weight is {linear.weight.dtype}"
    if linear._forward_hooks or linear._forward_pre_hooks:
        return "it has forward hooks"
    if usable_kernel(linear.weight.dtype, form) is None:
        return kernels().reason if kernels().library is None else "this processor has no kernel"
    return ""


def _holders(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Of every module, whose attribute it is; a shared one has several."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None:
                found.setdefault(id(child), []).append((parent, name))
    return found
