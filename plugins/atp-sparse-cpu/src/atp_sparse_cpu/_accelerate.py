"""Packing a model's linear layers in place, and undoing it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from atp_core.errors import ModelError, UsageError

from ._candidates import Candidate, candidates
from ._library import library, runtime_info, unavailable
from ._linear import SparseLinear
from ._packed import pack
from ._plan import BUCKETS, Path, kernels_for, name_of_bucket, rule
from ._report import AccelerationReport, LayerReport
from ._tune import Choice, choose, measure

__all__ = ["accelerate", "restore"]

_LEAST_WEIGHTS = 1 << 16
"""Below, what Python does around a product takes as long as the product."""

_warned = False


def accelerate(
    model: nn.Module,
    *,
    min_sparsity: float = 0.4,
    format: Literal["exact", "int8"] = "exact",
    tune: bool = True,
    keep_dense: Literal["auto", "never"] = "auto",
    skip: Iterable[str] = (),
) -> AccelerationReport:
    """Replace, in place, every linear layer whose zeros pay by a packed one.

    Weights keep their type, and every bit of them. Layers are left dense, and reported with the
    reason, where they have too few zeros, where dense is faster, or where something else than
    their own forward reads their weight. If this fails, the model is as it was before.

    Args:
        model: on the CPU.
        min_sparsity: smallest share of zeros that a layer is packed for, 0 to 1.
        format: "exact", or "int8": values rounded to 8 bits with one scale for 128 columns of a
            row. Lossy: `restore` then brings back the rounded weights.
        tune: measure every shape of layer (one or two seconds each, kept on disk) and take
            the fastest way for each number of tokens; layers of fewer than 65,536 weights stay
            dense. Without it a rule is followed.
        keep_dense: "auto" keeps the dense weight too where, for some number of tokens, no packed
            way comes within 2 % of the dense speed: no slower, but memory is saved only where
            no such number exists. "never" saves memory everywhere, and may be slower for many
            tokens at once. Has no effect without `tune`.
        skip: names of layers, or of modules around them, to leave alone.

    Returns:
        What became of each linear layer.

    Raises:
        UsageError: an argument is out of range, or `skip` names nothing.
        ModelError: the model is a single linear layer, which cannot be replaced in place.
        NumericalError: NaN or infinity where "int8" was asked for.
    """
    if not 0 <= min_sparsity <= 1:
        raise UsageError(f"min_sparsity is {min_sparsity}; it must be between 0 and 1")
    if format not in ("exact", "int8"):
        raise UsageError(f'format is {format!r}; it must be "exact" or "int8"')
    if keep_dense not in ("auto", "never"):
        raise UsageError(f'keep_dense is {keep_dense!r}; it must be "auto" or "never"')
    if isinstance(model, nn.Linear):
        raise ModelError(
            "a single nn.Linear cannot be replaced in place; use SparseLinear.from_linear"
        )
    skipped = _skipped(model, skip)
    found = candidates(model)
    _warn_without_kernels()
    total = sum(each.weight.nbytes for each in found if not each.obstacle)
    done: list[tuple[Candidate, Tensor | None]] = []
    layers: list[LayerReport] = []
    try:
        for candidate in found:
            if candidate.name in skipped:
                candidate.obstacle = candidate.obstacle or "it was to be skipped"
            sparsity = _sparsity(candidate)
            if not candidate.obstacle:
                candidate.obstacle = _unfit(
                    candidate, sparsity, min_sparsity, format == "int8", tune
                )
            if candidate.obstacle:
                layers.append(_left(candidate, sparsity, candidate.obstacle))
                continue
            int8 = format == "int8"
            # Rounded weights could not bring back what was there, so the dense ones stay until
            # every layer is done.
            weight = candidate.module._parameters["weight"]
            original = weight.data if int8 and weight is not None else None
            report = _replace(candidate, sparsity, total, int8, tune, keep_dense == "auto")
            layers.append(report)
            if report.sparse:
                done.append((candidate, original))
    except BaseException:
        for candidate, original in done:
            _put_back(candidate, original)
        raise
    return AccelerationReport(tuple(layers), runtime_info())


def restore(model: nn.Module) -> int:
    """Bring the dense layers back: the same modules and parameters, bit for bit.

    What was packed as "int8" comes back rounded.

    Args:
        model: one that `accelerate` changed; another one stays as it is.

    Returns:
        The number of layers brought back.
    """
    fresh: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, SparseLinear) and child.stands:
                if id(child) not in fresh:
                    fresh[id(child)] = child.release()
                parent._modules[name] = fresh[id(child)]
    return len(fresh)


def _replace(
    candidate: Candidate, sparsity: float, total: int, int8: bool, tune: bool, keep: bool
) -> LayerReport:
    module, weight = candidate.module, candidate.weight.detach()
    matrix = weight.contiguous()
    packed = pack(matrix, int8=int8)
    if tune:
        ratios = measure(matrix, packed, model_bytes=total)
        choice = choose(ratios, keep_dense=keep)
    else:
        choice = Choice(rule(packed.values.dtype), (), "packed, by rule")
    if choice.plan is None:
        return _left(candidate, sparsity, choice.reason)
    bias = module._parameters.get("bias")
    dense_bytes = weight.nbytes
    sparse = SparseLinear(
        packed, bias, weight.dtype, choice.plan, weight if Path.DENSE in choice.plan else None
    )
    sparse.stand_for(module, transposed=candidate.transposed)
    for parent, name in candidate.slots:
        parent._modules[name] = sparse
    buckets = [name_of_bucket(index) for index in range(len(BUCKETS))]
    ways = [Path(way).name.lower() for way in choice.plan]
    return LayerReport(
        candidate.name,
        (packed.rows, packed.columns),
        sparsity,
        " ".join(dict.fromkeys(ways)),
        choice.reason,
        dense_bytes,
        sparse.bytes,
        dtype=str(weight.dtype).removeprefix("torch."),
        ways=dict(zip(buckets, ways, strict=True)),
        speedups=dict(zip(buckets, choice.speedups, strict=False)),
    )


def _left(candidate: Candidate, sparsity: float, reason: str) -> LayerReport:
    weight, module = candidate.weight, candidate.module
    if isinstance(module, SparseLinear):
        shape, kind = (module.out_features, module.in_features), module.dtype
        dense_bytes, taken = shape[0] * shape[1] * kind.itemsize, module.bytes
    else:
        rows, columns = weight.shape
        shape, kind = (rows, columns), weight.dtype
        dense_bytes = taken = weight.numel() * weight.element_size()
    name = str(kind).removeprefix("torch.")
    return LayerReport(
        candidate.name, shape, sparsity, "dense", reason, dense_bytes, taken, dtype=name
    )


def _sparsity(candidate: Candidate) -> float:
    """Share of zeros; 0 where the values cannot be looked at."""
    module, weight = candidate.module, candidate.weight
    if isinstance(module, SparseLinear):
        return module.sparsity
    if weight.device.type == "meta" or weight.numel() == 0 or type(weight.data) is not torch.Tensor:
        return 0.0
    return 1 - int(torch.count_nonzero(weight.detach())) / weight.numel()


def _unfit(candidate: Candidate, sparsity: float, least: float, int8: bool, tune: bool) -> str:
    if sparsity < least:
        return f"sparsity {sparsity:.3f} is below {least:g}"
    if why := unavailable():
        return f"no kernels: {why}"
    if tune and candidate.weight.numel() < _LEAST_WEIGHTS:
        return f"too small to gain: fewer than {_LEAST_WEIGHTS:,} weights"
    stored = torch.int8 if int8 else candidate.weight.dtype
    if not kernels_for(stored):
        return f"this processor has no instructions for {str(stored).removeprefix('torch.')} values"
    return ""


def _put_back(candidate: Candidate, original: Tensor | None) -> None:
    for parent, name in candidate.slots:
        current = parent._modules[name]
        if isinstance(current, SparseLinear):
            parent._modules[name] = current.release()
    weight = candidate.module._parameters["weight"]
    if original is not None and weight is not None:
        weight.data = original


def _skipped(model: nn.Module, skip: Iterable[str]) -> set[str]:
    names = {name for name, _ in model.named_modules(remove_duplicate=False)}
    found: set[str] = set()
    for wanted in [skip] if isinstance(skip, str) else skip:
        if wanted not in names:
            raise UsageError(f"skip names {wanted!r}, and the model has no such module")
        found |= {name for name in names if name == wanted or name.startswith(f"{wanted}.")}
    return found


def _warn_without_kernels() -> None:
    global _warned
    if library() is None and not _warned:
        _warned = True
        warnings.warn(
            f"sparse-cpu leaves all layers dense: {unavailable()}", RuntimeWarning, stacklevel=3
        )
