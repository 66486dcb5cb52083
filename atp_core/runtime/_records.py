"""What a runtime did to a model, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["AcceleratedLayer", "Acceleration"]


@dataclass(frozen=True)
class AcceleratedLayer:
    """One layer that a runtime looked at.

    Attributes:
        name: qualified name of the module.
        shape: (out_features, in_features).
        sparsity: share of zeros in its weight.
        kernel: what executes it; "dense" where it was left as it was.
        reason: why, e.g. "sparse is faster for 1 to 16 tokens" or "too few zeros".
        dense_bytes: of its weight when dense.
        bytes: what the weight takes now.
    """

    name: str
    shape: tuple[int, int]
    sparsity: float
    kernel: str
    reason: str
    dense_bytes: int
    bytes: int

    @property
    def sparse(self) -> bool:
        """Whether anything but the dense kernel executes it."""
        return self.kernel != "dense"


@dataclass(frozen=True)
class Acceleration:
    """What a runtime did to a model.

    Attributes:
        layers: every layer it looked at, in the order of the model.
    """

    layers: tuple[AcceleratedLayer, ...] = ()

    @property
    def sparse_layers(self) -> int:
        """Number of layers that do not run dense."""
        return sum(layer.sparse for layer in self.layers)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the weights of all layers when dense."""
        return sum(layer.dense_bytes for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes that these weights take now."""
        return sum(layer.bytes for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """The acceleration as JSON-ready data."""
        return {
            "sparse_layers": self.sparse_layers,
            "dense_bytes": self.dense_bytes,
            "bytes": self.bytes,
            "layers": [{**asdict(layer), "shape": list(layer.shape)} for layer in self.layers],
        }
