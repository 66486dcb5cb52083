"""What a plugin implements to execute pruned models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from ._records import Acceleration

if TYPE_CHECKING:
    import torch

__all__ = ["Runtime"]


class Runtime(Protocol):
    """Executes the sparse layers of a model by kernels of its own.

    It may have a further attribute ``devices``, the device types it is for (``("cuda",)``);
    "auto" takes it on these only. Without it, a runtime is for every device.
    """

    @property
    def name(self) -> str:
        """The name users write."""

    def check(self) -> None:
        """Make sure that it can run on this machine.

        Raises:
            AtpError: it cannot; the message says why, and the remedy.
        """

    def accelerate(
        self, model: torch.nn.Module, weights: Mapping[str, torch.Tensor] | None = None
    ) -> Acceleration:
        """Have the layers of a model executed sparsely where that pays, in place.

        Args:
            model: in eval mode, on the device it will run on.
            weights: values for parameters by qualified name, in place of the model's own.
        """

    def restore(self, model: torch.nn.Module) -> None:
        """Bring the dense layers back, bit for bit."""

    def info(self) -> Mapping[str, str]:
        """What is live: instruction set, compiler, threads, device."""
