"""The runtime that leaves everything as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import UsageError
from ._records import AcceleratedLayer, Acceleration

if TYPE_CHECKING:
    import torch

__all__ = ["Dense"]


class Dense:
    """Execute models as torch does.

    Attributes:
        name: "dense".
    """

    name = "dense"

    def check(self) -> None:
        """It runs everywhere."""

    def accelerate(
        self, model: torch.nn.Module, weights: Mapping[str, torch.Tensor] | None = None
    ) -> Acceleration:
        """Change nothing, and tell of the linear layers.

        Raises:
            UsageError: `weights` are given, which only a sparse runtime can take.
        """
        from torch import nn

        if weights:
            raise UsageError(
                "the dense runtime takes no weights beside the model's own; load them into the "
                "model with load_state_dict"
            )
        layers = []
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                weight = module.weight.detach()
                zeros = 0 if weight.is_meta else int((weight == 0).sum())
                layers.append(
                    AcceleratedLayer(
                        name=name,
                        shape=(module.out_features, module.in_features),
                        sparsity=zeros / max(1, weight.numel()),
                        kernel="dense",
                        reason="the dense runtime was asked for",
                        dense_bytes=weight.nbytes,
                        bytes=weight.nbytes,
                    )
                )
        return Acceleration(tuple(layers))

    def restore(self, model: torch.nn.Module) -> None:
        """There is nothing to bring back."""

    def info(self) -> Mapping[str, str]:
        """Torch's version and threads."""
        import torch

        return {"torch": torch.__version__, "threads": str(torch.get_num_threads())}
