"""Whether a model is still as it was: modules, modes, hooks, and tensors by version and sample.

Cheap enough to do at every run: no tensor is copied or hashed as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

__all__ = ["Watch"]

_SAMPLE: Final = 16


class Watch:
    """Remembers how a model is.

    Args:
        model: the model to watch.

    Attributes:
        model: the same.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._before = _modules(model)

    def changes(self) -> Iterator[str]:
        """What is no longer as it was, each as a phrase that names it."""
        now = _modules(self.model)
        for name, module in self._before.items():
            other = now.get(name)
            label = name or "the model itself"
            if other is None:
                yield f"{label} was taken out"
            elif other.module is not module.module:
                yield f"{label} was replaced"
            else:
                yield from module.changes(label, other)
        yield from (f"{name} was added" for name in now if name not in self._before)


@dataclass(frozen=True)
class _Tensor:
    """What a tensor is like.

    Attributes:
        tensor: itself, so that no other can take its place.
        alias: holds its memory, so that no other can take that place either.
        place: where it lies and how, or None where that is hidden.
        version: counts its changes; None where it has no counter (inference tensors).
        trained: whether it requires gradients.
        sample: a few of its bytes, for changes that no counter counts (through ``.data``).
    """

    tensor: torch.Tensor
    alias: torch.Tensor
    place: tuple[Any, ...] | None
    version: int | None
    trained: bool
    sample: torch.Tensor | None

    @classmethod
    def of(cls, tensor: torch.Tensor) -> _Tensor:
        alias = tensor.detach()
        plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout is torch.strided
        place: tuple[Any, ...] | None = None
        if plain:
            place = (
                tensor.untyped_storage()._cdata,
                tensor.storage_offset(),
                tuple(tensor.shape),
                tensor.stride(),
                tensor.dtype,
                tensor.device,
            )
        return cls(
            tensor,
            alias,
            place,
            None if tensor.is_inference() else tensor._version,
            tensor.requires_grad,
            _sample(alias) if plain else None,
        )

    def changes(self, name: str, now: _Tensor | None) -> Iterator[str]:
        if now is None:
            yield f"{name} was taken out"
        elif now.tensor is not self.tensor:
            yield f"{name} was replaced"
        else:
            if now.place != self.place:
                yield f"the memory of {name} was replaced"
            elif now.version != self.version or not _same(self.sample, now.sample):
                yield f"values of {name} were written"
            if now.trained != self.trained:
                yield f"requires_grad of {name} became {now.trained}"


@dataclass(frozen=True)
class _Module:
    """What a module is like, its children left aside."""

    module: nn.Module
    kind: type
    training: bool
    forward: Any
    hooks: Mapping[str, tuple[Any, ...]]
    tensors: Mapping[str, _Tensor]

    @classmethod
    def of(cls, module: nn.Module) -> _Module:
        own = vars(module)
        hooks = {
            name: tuple(held)
            for name, held in own.items()
            if "hooks" in name and isinstance(held, Mapping)
        }
        tensors = {
            name: _Tensor.of(value)
            for held in (module._parameters, module._buffers)
            for name, value in held.items()
            if value is not None and not nn.parameter.is_lazy(value)
        }
        return cls(module, type(module), module.training, own.get("forward"), hooks, tensors)

    def changes(self, name: str, now: _Module) -> Iterator[str]:
        if now.kind is not self.kind:
            yield f"{name} became a {now.kind.__name__}"
        if now.training != self.training:
            yield f"{name} was put into {'training' if now.training else 'eval'} mode"
        if now.forward is not self.forward:
            yield f"the forward of {name} was replaced"
        if now.hooks != self.hooks:
            yield f"hooks were registered on {name}, or removed"
        prefix = "" if name == "the model itself" else f"{name}."
        for key, tensor in self.tensors.items():
            yield from tensor.changes(prefix + key, now.tensors.get(key))
        yield from (f"{prefix}{key} was added" for key in now.tensors if key not in self.tensors)


def _modules(model: nn.Module) -> dict[str, _Module]:
    return {name: _Module.of(module) for name, module in model.named_modules()}


def _sample(tensor: torch.Tensor) -> torch.Tensor | None:
    """A few elements from all over a tensor, as bytes; None on the meta device and the like."""
    if tensor.is_meta or tensor.is_quantized or not tensor.numel() or not tensor.is_contiguous():
        return None
    flat = tensor.view(-1)
    return flat[:: max(1, len(flat) // _SAMPLE)][:_SAMPLE].clone().view(torch.uint8)


def _same(before: torch.Tensor | None, now: torch.Tensor | None) -> bool:
    if before is None or now is None:
        return before is now
    return torch.equal(before, now)
