"""The runtime as core's hook `atp_runtimes` wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from atp_core.errors import ModelError
from atp_core.runtime import AcceleratedLayer, Acceleration

if TYPE_CHECKING:
    import torch

__all__ = ["SparseCpu"]


class SparseCpu:
    """Packed linear layers on the CPU.

    Attributes:
        name: of the runtime.
        devices: what it is for.
    """

    name = "sparse-cpu"
    devices = ("cpu",)

    def check(self) -> None:
        """Whether it can run here.

        Raises:
            ModelError: no compiler, or another processor; the message says which.
        """
        from ._library import unavailable

        if why := unavailable():
            raise ModelError(f"the runtime {self.name} cannot run here: {why}")

    def accelerate(
        self, model: torch.nn.Module, weights: Mapping[str, torch.Tensor] | None = None
    ) -> Acceleration:
        """Pack the model's linear layers in place.

        Args:
            model: on the CPU.
            weights: values for parameters of the model, by their qualified names; they are put
                into the model first.

        Raises:
            ModelError: `weights` does not fit the model.
        """
        from ._accelerate import accelerate

        _put(model, weights or {})
        report = accelerate(model)
        names = [field.name for field in fields(AcceleratedLayer)]
        # Without what only this package tells.
        return Acceleration(
            tuple(
                AcceleratedLayer(**{name: getattr(layer, name) for name in names})
                for layer in report.layers
            )
        )

    def restore(self, model: torch.nn.Module) -> None:
        """Bring the dense layers back, bit for bit."""
        from ._accelerate import restore

        restore(model)

    def info(self) -> Mapping[str, str]:
        """What is live: instructions, compiler, threads."""
        from ._library import runtime_info

        return runtime_info()


def _put(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, value in weights.items():
        parameter = parameters.get(name)
        if parameter is None or parameter.shape != value.shape:
            shape = "no such parameter" if parameter is None else f"{tuple(parameter.shape)}"
            raise ModelError(
                f"weight {name!r} of {tuple(value.shape)} does not fit the model: {shape}"
            )
    for name, value in weights.items():
        parameters[name].data = value
