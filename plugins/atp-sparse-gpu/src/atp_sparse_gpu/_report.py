"""What became of each layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["AccelerationReport", "LayerReport"]


@dataclass(frozen=True)
class LayerReport:
    """One linear layer.

    Attributes:
        name: qualified name of the module.
        shape: (out_features, in_features).
        sparsity: share of zeros, or None where there is nothing to count (meta device).
        kernel: its routes by number of tokens, e.g. "bitmask to 16, dense above"; "dense" where it
            stays as it is.
        reason: why, or how the routes were chosen.
        dense_bytes: bytes of the dense weight.
        bytes: bytes of all formats that are kept on the device now.
    """

    name: str
    shape: tuple[int, int]
    sparsity: float | None
    kernel: str
    reason: str
    dense_bytes: int
    bytes: int


@dataclass(frozen=True)
class AccelerationReport:
    """All linear layers of a model, in the order of its modules."""

    layers: tuple[LayerReport, ...]

    @property
    def accelerated(self) -> tuple[LayerReport, ...]:
        """The layers that some number of tokens goes through sparse."""
        return tuple(layer for layer in self.layers if layer.kernel != "dense")

    @property
    def dense_bytes(self) -> int:
        """Bytes of all dense weights."""
        return sum(layer.dense_bytes for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes of what is kept on the device."""
        return sum(layer.bytes for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """As JSON would hold it."""
        return {
            "dense_bytes": self.dense_bytes,
            "bytes": self.bytes,
            "layers": [asdict(layer) for layer in self.layers],
        }
