"""Activations that wait on disk: their numbers lie in a file and take no memory meanwhile."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils import _pytree as pytree

from ._libc import drop_pages

__all__ = ["Parking"]

_LEAST: Final = 1 << 16
"""Bytes; what is smaller is not worth a file."""


class Parking:
    """Puts tensors on disk, in place, so that whoever holds one holds no memory.

    Between two blocks the activations of all batches wait, held by the frames of the model's own
    code. So a tensor is not replaced: its storage is, by one that is mapped from a file. The file
    has no name, and is gone when the last tensor on it is.

    Args:
        directory: on a disk with room for the activations.

    A full disk is an OSError.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()

    def park(self, tree: Any) -> None:
        """Move every large tensor of floating-point numbers on the CPU to disk."""
        for leaf in pytree.tree_leaves(tree):
            if (
                isinstance(leaf, torch.Tensor)
                and leaf.device.type == "cpu"
                and leaf.is_floating_point()
                and not isinstance(leaf, torch.nn.Parameter)
                and leaf.is_contiguous()
                and leaf.nbytes >= _LEAST
            ):
                self._move(leaf)

    def fetch(self, tree: Any) -> Any:
        """`tree` with every large tensor of floating-point numbers in memory."""
        return pytree.tree_map_only(torch.Tensor, self._copy, tree)

    def _move(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.filename is not None:
            _release(storage)
            return
        path = self._directory / f"activations-{next(self._numbers)}"
        size = tensor.nbytes
        try:
            with path.open("wb") as file:
                # Written through a mapping, a full disk would end the process without a word.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
            mapped: Any = torch.UntypedStorage.from_file(str(path), True, size)
        finally:
            path.unlink(missing_ok=True)
        other = torch.empty(0, dtype=tensor.dtype).set_(mapped, 0, tensor.shape, tensor.stride())
        other.copy_(tensor)
        _release(mapped)
        tensor.set_(mapped, 0, tensor.shape, tensor.stride())

    @staticmethod
    def _copy(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type != "cpu" or tensor.untyped_storage().filename is None:
            return tensor
        found = tensor.clone()
        _release(tensor.untyped_storage())
        return found


def _release(storage: torch.UntypedStorage) -> None:
    """Let the kernel take the pages of a mapping out of memory; their content stays in the file."""
    drop_pages(storage.data_ptr(), storage.nbytes())
