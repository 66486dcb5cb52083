"""What the towers of a CLIP model take."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["Inputs"]


class Inputs(dict[str, torch.Tensor]):
    """Arguments of one tower by name; the first dimension of each counts the batch."""

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Inputs:
        """A copy on `device`, floating-point numbers in `dtype`."""
        return Inputs(
            {
                name: tensor.to(device, dtype if tensor.is_floating_point() else None)
                for name, tensor in self.items()
            }
        )

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(next(iter(self.values())))

    @property
    def bytes(self) -> int:
        """Memory they take."""
        return sum(tensor.nbytes for tensor in self.values())

    def rows(self, start: int, stop: int) -> Inputs:
        """The samples from `start` to `stop`."""
        return Inputs({name: tensor[start:stop] for name, tensor in self.items()})

    @classmethod
    def joined(cls, parts: Sequence[Inputs]) -> Inputs:
        """All samples of `parts`, which have the same names."""
        return cls({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
