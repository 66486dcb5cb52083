"""What loading from either library shares."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["float_dtypes", "short_dtype", "working_dtype"]

_STORED = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def working_dtype(stored: Iterable[str]) -> torch.dtype:
    """The dtype a model is worked on in: that of its file, float32 where several are mixed."""
    kinds = {_STORED[name] for name in stored if name in _STORED}
    return kinds.pop() if len(kinds) == 1 else torch.float32


def float_dtypes(stored: dict[str, str]) -> dict[str, torch.dtype]:
    """Tensor → torch dtype, of the tensors that hold floating-point numbers."""
    return {name: _STORED[kind] for name, kind in stored.items() if kind in _STORED}


def short_dtype(model: nn.Module) -> str:
    """E.g. "float32"."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")
