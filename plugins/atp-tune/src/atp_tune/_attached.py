"""What is trained, attached to a model so that it computes with what will be saved.

Each tensor that is trained becomes a parametrization (`torch.nn.utils.parametrize`): wherever the
model reads it, it gets W + M∘(α/r · B A), or M∘W of a copy in float32, rounded to the tensor's own
dtype. M is 1 where the pruned weight is not zero. So zeros are zeros in every forward pass, their
gradient is zero, and merging is no more than keeping what the model computed with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from atp_core.errors import ModelError, NumericalError
from atp_core.records import Chain, PrunableWeight

from ._adapters import ADAPTER, adapters_for
from ._settings import TuneSettings
from ._zeros import weights_of

__all__ = ["Attached", "attach"]


class _Updated(nn.Module):
    """W + M∘(α/r · B A), in the dtype of W."""

    keep: torch.Tensor

    def __init__(
        self, weights: Sequence[PrunableWeight], adapters: Sequence[Any], keep: torch.Tensor
    ) -> None:
        super().__init__()
        # In a tuple, so that they are no parts of the model.
        self._parts = tuple(zip(weights, adapters, strict=True))
        self.register_buffer("keep", keep, persistent=False)

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor with its update."""
        update = torch.zeros_like(tensor, dtype=torch.float32)
        for weight, adapter in self._parts:
            view = dataclasses.replace(weight, reader=lambda _: update).matrix()
            view.copy_(adapter.get_delta_weight(ADAPTER))
        return tensor + torch.where(self.keep, update, 0.0).to(tensor.dtype)


class _Kept(nn.Module):
    """M∘W in the tensor's own dtype, of a W in float32; all of W where there is no M."""

    keep: torch.Tensor | None

    def __init__(self, dtype: torch.dtype, keep: torch.Tensor | None) -> None:
        super().__init__()
        self._dtype = dtype
        self.register_buffer("keep", keep, persistent=False)

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor as the model sees it."""
        kept = tensor if self.keep is None else torch.where(self.keep, tensor, 0.0)
        return kept.to(self._dtype)


@dataclass
class Attached:
    """What is trained of a model.

    Attributes:
        trained: name → parameter, all in float32.
        places: module and name of each tensor that has a parametrization.
    """

    trained: dict[str, nn.Parameter] = field(default_factory=dict)
    places: list[tuple[nn.Module, str]] = field(default_factory=list)
    _masters: list[tuple[nn.Parameter, torch.Tensor]] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """Numbers that are trained; of masked weights only the kept ones count."""
        masked = sum(int((~keep).sum()) for _, keep in self._masters)
        return sum(one.numel() for one in self.trained.values()) - masked

    def to(self, device: torch.device) -> None:
        """Move what is trained; the model moves on its own."""
        for parameter in self.trained.values():
            parameter.data = parameter.data.to(device)

    def mask(self) -> None:
        """Set to zero again what is pruned, whatever an optimizer made of it."""
        with torch.no_grad():
            for master, keep in self._masters:
                master.masked_fill_(~keep.to(master.device), 0.0)

    def merge(self) -> None:
        """Leave the model with the tensors that it computed with, bit for bit.

        Raises:
            NumericalError: one is not finite.
        """
        for module, name in self.places:
            value = getattr(module, name).detach().clone()
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
            if not bool(torch.isfinite(value).all()):
                raise NumericalError(
                    f"training made weights that are not finite ({name} of a "
                    f"{type(module).__name__}); lower --lr, or give --dtype float32"
                )
            parameter: nn.Parameter = getattr(module, name)
            parameter.requires_grad_(False)
            parameter.data = value
        self.places.clear()


def attach(
    model: nn.Module, chains: Sequence[Chain], settings: TuneSettings, seed: int
) -> Attached:
    """Attach what `settings` has trained; everything else of the model is frozen.

    Args:
        model: pruned; its weights are changed by `Attached.merge` only.
        chains: whose prunable weights are trained.
        settings: the mode, and what is trained besides.
        seed: of the low-rank updates.

    Raises:
        ModelError: two layers share a tensor that would be trained.
    """
    model.requires_grad_(False)
    found = Attached()
    weights = weights_of(chains)
    grouped: dict[tuple[int, str], list[int]] = {}
    for i, weight in enumerate(weights):
        grouped.setdefault((id(weight.module), weight.parameter), []).append(i)
    others = list(_others(model, set(grouped), settings))
    _refuse_shared(model, [(weights[of[0]].module, name) for (_, name), of in grouped.items()])
    adapters: list[Any] = []
    if settings.mode == "lora":
        adapters = adapters_for(
            weights, rank=settings.lora_rank, alpha=settings.lora_alpha, seed=seed
        )
    for (_, name), members in grouped.items():
        module = weights[members[0]].module
        tensor: nn.Parameter = getattr(module, name)
        keep = tensor.detach() != 0
        if settings.mode == "full":
            _master(found, module, name, weights[members[0]].name, keep)
            continue
        parts = [weights[i] for i in members]
        own = [adapters[i] for i in members]
        parametrize.register_parametrization(module, name, _Updated(parts, own, keep), unsafe=True)
        module.parametrizations[name].original.requires_grad_(False)  # type: ignore[union-attr,index]
        found.places.append((module, name))
        for part, adapter in zip(parts, own, strict=True):
            found.trained[f"{part.name}.lora_A"] = adapter.lora_A[ADAPTER].weight
            found.trained[f"{part.name}.lora_B"] = adapter.lora_B[ADAPTER].weight
    for full_name, module, name in others:
        _master(found, module, name, full_name, None)
    return found


def _master(
    found: Attached, module: nn.Module, name: str, full_name: str, keep: torch.Tensor | None
) -> None:
    """Train a tensor by a copy in float32."""
    dtype = getattr(module, name).dtype
    parametrize.register_parametrization(module, name, _Kept(dtype, keep), unsafe=True)
    master: nn.Parameter = module.parametrizations[name].original  # type: ignore[union-attr,index]
    master.data = master.data.float()
    master.requires_grad_(True)
    found.places.append((module, name))
    found.trained[full_name] = master
    if keep is not None:
        found._masters.append((master, keep))


def _others(
    model: nn.Module, taken: set[tuple[int, str]], settings: TuneSettings
) -> Iterator[tuple[str, nn.Module, str]]:
    """Qualified name, module and name of the biases and normalizations to train."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            wanted = settings.norms if is_norm else settings.biases and name.endswith("bias")
            if not wanted or (id(module), name) in taken or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            yield f"{prefix}.{name}" if prefix else name, module, name


def _refuse_shared(model: nn.Module, places: Sequence[tuple[nn.Module, str]]) -> None:
    homes: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            homes.setdefault(id(parameter), []).append(f"{prefix}.{name}")
    for module, name in places:
        of = homes.get(id(getattr(module, name)), [])
        if len(of) > 1:
            raise ModelError(
                f"{of[0]} and {of[1]} are one tensor, and training would tell them apart; models "
                "that share prunable weights between layers cannot be tuned"
            )
