"""The runtime "sparse-gpu", as core asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from atp_core.runtime import Acceleration

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["SparseGpuRuntime"]


class SparseGpuRuntime:
    """Runs pruned linear layers sparse on an NVIDIA GPU; see `atp_sparse_gpu.accelerate`.

    Args:
        keep_dense: as `accelerate` takes it.
    """

    name = "sparse-gpu"
    devices = ("cuda",)

    def __init__(self, *, keep_dense: bool = True) -> None:
        self._keep_dense = keep_dense

    def check(self) -> None:
        """Make sure that it can run here.

        Raises:
            UsageError: it cannot; the message says why and what to do.
        """
        from ._platform import check

        check()

    def accelerate(
        self, model: nn.Module, weights: Mapping[str, Tensor] | None = None
    ) -> Acceleration:
        """Accelerate `model` in place.

        Returns:
            A row for every `nn.Linear`.
        """
        from ._accelerate import accelerate

        self.check()
        return accelerate(model, keep_dense=self._keep_dense, weights=weights)

    def restore(self, model: nn.Module) -> None:
        """Put the dense layers back, bit for bit."""
        from ._accelerate import restore

        restore(model)

    def info(self) -> Mapping[str, str]:
        """What is live: device, versions, kernels."""
        from ._platform import runtime_info

        return runtime_info()
