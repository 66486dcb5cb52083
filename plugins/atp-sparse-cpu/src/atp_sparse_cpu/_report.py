"""What `accelerate` did, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["AccelerationReport", "LayerReport"]


@dataclass(frozen=True)
class LayerReport:
    """One linear layer.

    Attributes:
        name: its qualified name; where a module has several, the first.
        shape: (out_features, in_features).
        dtype: type of its weight, e.g. "bfloat16".
        sparsity: share of zeros.
        accelerated: whether it is packed now.
        ways: for each bucket of tokens ("1", "5-8", "129-") how it is computed: "bf16_dot",
            "bf16_fma", "fp16", "fp32", "int8" are kernels that expand the packed weight, "spmm"
            is one that skips its zeros, "unpack" is `F.linear` on rows unpacked at a time, "dense"
            the dense weight that is kept.
        speedups: for each bucket, measured time of the dense layer over that of its way; empty
            where nothing was measured.
        reason: why it is as it is, e.g. why it stayed dense.
        dense_bytes: memory of the dense weight.
        bytes: memory of the weight now, a kept dense one included.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    sparsity: float
    accelerated: bool
    reason: str
    dense_bytes: int
    bytes: int
    ways: Mapping[str, str] = field(default_factory=dict)
    speedups: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AccelerationReport:
    """What `accelerate` did.

    Attributes:
        layers: every linear layer of the model, in the order of its modules.
        runtime: what `runtime_info` said.
    """

    layers: tuple[LayerReport, ...]
    runtime: Mapping[str, str]

    @property
    def accelerated(self) -> int:
        """Number of packed layers."""
        return sum(layer.accelerated for layer in self.layers)

    @property
    def dense_bytes(self) -> int:
        """Memory of all these weights when dense."""
        return sum(layer.dense_bytes for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Memory of all these weights now."""
        return sum(layer.bytes for layer in self.layers)

    def __str__(self) -> str:
        lines = [
            f"{self.accelerated} of {len(self.layers)} linear layers packed, "
            f"{self.dense_bytes / 1e6:.1f} MB -> {self.bytes / 1e6:.1f} MB"
        ]
        for layer in self.layers:
            size = f"{layer.shape[0]}x{layer.shape[1]} {layer.dtype}"
            lines.append(f"  {layer.name}: {size}, sparsity {layer.sparsity:.3f}: {layer.reason}")
        return "\n".join(lines)
