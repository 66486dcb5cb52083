"""What loading a model takes in every plugin: a dtype by name, and errors told in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from .errors import AtpError, ModelError

__all__ = ["dtype_named", "explained", "first_line"]


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
