"""What loading a model takes in every plugin: a dtype by name, and errors told in one line."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .errors import AtpError, ModelError

__all__ = ["dtype_named", "explained", "first_line", "meta_copy", "shared_copy"]


def dtype_named(name: str) -> torch.dtype | None:
    """The dtype of a `LoadRequest`; None for "auto".

    Raises:
        ModelError: it is no dtype for weights.
    """
    if name == "auto":
        return None
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(
            f"{name!r} is no dtype for weights; use auto, float32, bfloat16 or float16"
        )
    return found


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` on the meta device, without its numbers; `model` is left as it is."""
    return _copy(model, lambda tensor: torch.empty_like(tensor, device="meta"))


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` whose parameters and buffers share the memory of its own.

    Either can be given other modules or parameters without a change to the other; what is written
    into a tensor shows in both.
    """
    return _copy(model, lambda tensor: tensor.detach())


def _copy(model: nn.Module, made: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A copy of `model` with what `made` gives for each of its tensors."""
    tensors: dict[int, Any] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers, vars(module)):
            for value in held.values():
                if isinstance(value, nn.Parameter):
                    tensors[id(value)] = nn.Parameter(made(value), value.requires_grad)
                elif isinstance(value, torch.Tensor):
                    tensors[id(value)] = made(value)
    return copy.deepcopy(model, tensors)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def explained(text: str, remedy: str = "") -> Iterator[None]:
    """Turn whatever a library raises into a `ModelError` of one line; our own errors pass.

    Args:
        text: what is loaded, as the user wrote it.
        remedy: what to do about it, a sentence.
    """
    try:
        yield
    except AtpError:
        raise
    except Exception as error:
        told = f"{text} cannot be loaded: {first_line(error)}"
        raise ModelError(f"{told} {remedy}".strip()) from error
