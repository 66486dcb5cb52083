"""Put sparse layers into a model, and take them out again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from atp_core.errors import ModelError, UsageError
from atp_core.runtime import AcceleratedLayer, Acceleration

from ._choose import Plan, Route, fixed_plan, measured_plan
from ._linear import SparseLinear
from ._packed import DTYPES, pack
from ._platform import check, interpreted, semi_structured_problem, triton_problem
from ._products import Formats
from ._semi_structured import convert, has_pattern, unfit

__all__ = ["accelerate", "restore"]


def accelerate(
    model: nn.Module,
    *,
    min_sparsity: float = 0.4,
    keep_dense: bool = True,
    weights: Mapping[str, Tensor] | None = None,
) -> Acceleration:
    """Replace, in place, every `nn.Linear` whose zeros pay on this GPU.

    Each layer's routes are timed on its device against the dense product, once for all layers of
    one shape, dtype and sparsity; a layer that does not win stays as it is. In Triton's
    interpreter nothing is timed. Fused parameters, convolutions, subclasses of `nn.Linear` and
    layers with hooks are left alone; the report lists every `nn.Linear` with the reason.

    Args:
        model: on its device already, in the dtype it will run in.
        min_sparsity: layers with a smaller share of zeros are not tried.
        keep_dense: keep the dense weight beside the packed one, for numbers of tokens where dense
            is quicker, so that nothing gets slower. False saves its memory: products of many
            tokens then unpack the weight first, or go 2:4, and may be slower than dense.
        weights: dense weights by parameter name, to be written to the layers first.

    Returns:
        What became of each layer.

    Raises:
        UsageError: nothing can run here, or `min_sparsity` is not in [0, 1].
        ModelError: the model is accelerated already or is a single layer, or `weights` do not fit
            it. Whatever is raised, the model is as it was, but for `weights` that were written.
    """
    check()
    if not 0 <= min_sparsity <= 1:
        raise UsageError(f"min_sparsity is a share from 0 to 1, not {min_sparsity}")
    if any(isinstance(module, SparseLinear) for module in model.modules()):
        raise ModelError("the model is accelerated already: call restore(model) first")
    if isinstance(model, nn.Linear):
        raise ModelError("a single nn.Linear cannot be replaced in place: put it into a module")
    if weights:
        _write(model, weights)
    try:
        return Acceleration(tuple(_replace(model, min_sparsity, keep_dense)))
    except BaseException:
        restore(model)
        raise


def restore(model: nn.Module) -> None:
    """Put the dense layers back, their weights bit for bit; one that is not accelerated stays."""
    for module in list(model.modules()):
        for key, child in list(module.named_children()):
            if isinstance(child, SparseLinear):
                setattr(module, key, child.restored())


def _replace(model: nn.Module, min_sparsity: float, keep_dense: bool) -> Iterator[AcceleratedLayer]:
    """Replace layer by layer."""
    owners = Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module._parameters.values()
        if parameter is not None
    )
    # Not children(), which names a module once that stands twice in one parent.
    places = Counter(
        id(child) for parent in model.modules() for child in parent._modules.values()
    )
    plans: dict[Any, Plan | None] = {}
    for name, parent, key, layer in list(_layers(model)):
        reason = _unfit(layer, owners, places)
        zeros = _sparsity(layer.weight)
        if reason is None and zeros is not None and zeros < min_sparsity:
            reason = f"its sparsity is below {min_sparsity}"
        made = None
        if reason is None:
            assert zeros is not None, "a weight that can be packed can be counted"
            made, reason = _sparse(layer, zeros, keep_dense, plans)
        if made is not None:
            setattr(parent, key, made)
        dense_bytes = layer.in_features * layer.out_features * layer.weight.element_size()
        yield AcceleratedLayer(
            name=name,
            shape=(layer.out_features, layer.in_features),
            sparsity=zeros or 0.0,
            kernel=str(made.plan) if made else "dense",
            reason=reason or "",
            dense_bytes=dense_bytes,
            bytes=made.formats.nbytes if made else dense_bytes,
        )


def _layers(model: nn.Module) -> Sequence[tuple[str, nn.Module, str, nn.Linear]]:
    """Every `nn.Linear` below `model`, once: name, parent, its name there, itself."""
    return [
        (name, model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name
    ]


def _unfit(layer: nn.Linear, owners: Counter[int], places: Counter[int]) -> str | None:
    """Why a layer is not tried, whatever its zeros, or None."""
    weight = layer.weight
    if type(layer) is not nn.Linear:
        return f"it is a {type(layer).__name__}, whose forward may differ"
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
    if any(hooks) or "forward" in vars(layer):
        return "it has hooks or a forward of its own"
    if nn.utils.parametrize.is_parametrized(layer):
        return "its weight is parametrized"
    if owners[id(weight)] > 1:
        return "its weight is tied to another module's"
    if places[id(layer)] > 1:
        return "the module stands in several places"
    if type(weight.data) is not torch.Tensor:
        return f"its weight is a {type(weight.data).__name__}"
    if weight.dtype not in DTYPES:
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}"
    if not weight.numel():
        return "it is empty"
    if weight.shape != (layer.out_features, layer.in_features):
        return f"its weight is {list(weight.shape)}, not what the layer says of itself"
    if weight.device.type != ("cpu" if interpreted() else "cuda"):
        return f"its weight is on {weight.device}: move the model to the GPU first"
    return None


def _sparsity(weight: Tensor) -> float | None:
    """Share of zeros, or None where there is nothing to count."""
    if weight.is_meta or type(weight.data) is not torch.Tensor or not weight.numel():
        return None
    return 1 - int(torch.count_nonzero(weight.detach())) / weight.numel()


def _sparse(
    layer: nn.Linear, zeros: float, keep_dense: bool, plans: dict[Any, Plan | None]
) -> tuple[SparseLinear | None, str]:
    """The layer that replaces `layer`, or None; and why."""
    weight = layer.weight.detach()
    shape = (layer.out_features, layer.in_features)
    semi_problem = semi_structured_problem() or unfit(weight.dtype, shape)
    if semi_problem is None and not has_pattern(weight):
        semi_problem = "its zeros are not 2:4"
    packed_problem = triton_problem()
    candidates: list[Route] = []
    if semi_problem is None:
        candidates.append("2:4")
    if packed_problem is None and (keep_dense or semi_problem):
        candidates.append("bitmask")
    if not candidates:
        return None, f"{packed_problem}; {semi_problem}"
    # Of the routes for many tokens, 2:4 needs no second format beside it.
    if keep_dense:
        candidates.append("dense")
    elif semi_problem is not None:
        candidates.append("unpack")
    packed = pack(weight)
    formats = Formats(
        weight,
        packed if "bitmask" in candidates else None,
        convert(weight) if "2:4" in candidates else None,
    )
    key = (
        weight.device, weight.dtype, shape, layer.bias is not None, round(zeros * 20),
        tuple(candidates),
    )  # fmt: skip
    if key not in plans:
        plans[key] = _plan(candidates, formats, layer.bias)
    plan = plans[key]
    if plan is None:
        return None, "dense is as quick on this device"
    formats = Formats(
        dense=weight if "dense" in plan.routes else None,
        packed=packed if plan.routes & {"bitmask", "unpack"} else None,
        semi=formats.semi if "2:4" in plan.routes else None,
    )
    exact = formats.dense is not None or formats.packed is not None
    return SparseLinear(layer, plan, formats, None if exact else packed.to("cpu")), plan.why


def _plan(candidates: Sequence[Route], formats: Formats, bias: Tensor | None) -> Plan | None:
    if interpreted():
        return fixed_plan(candidates, "not measured: Triton's interpreter is on")
    from ._timing import times_of

    return measured_plan(candidates, times_of(formats, bias))


def _write(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write `weights` to the parameters of those names, all or none."""
    parameters = dict(model.named_parameters())
    for name, tensor in weights.items():
        parameter = parameters.get(name)
        if parameter is None:
            raise ModelError(f"the model has no parameter {name!r} to write weights to")
        if parameter.is_meta:
            raise ModelError(f"{name} has no memory (meta device): load the model first")
        if parameter.shape != tensor.shape or parameter.dtype != tensor.dtype:
            raise ModelError(
                f"weights for {name} are {tensor.dtype} {list(tensor.shape)}, and the model's are "
                f"{parameter.dtype} {list(parameter.shape)}: give those of this model"
            )
    for name, tensor in weights.items():
        parameters[name].data.copy_(tensor)
