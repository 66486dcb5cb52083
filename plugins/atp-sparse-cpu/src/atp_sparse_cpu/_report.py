"""What `accelerate` did, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from atp_core.runtime import AcceleratedLayer, Acceleration

__all__ = ["AccelerationReport", "LayerReport"]


@dataclass(frozen=True)
class LayerReport(AcceleratedLayer):
    """One linear layer; the name is its first, where a module has several.

    Attributes:
        dtype: type of its weight, e.g. "bfloat16".
        ways: for each bucket of tokens ("1", "5-8", "129-") how it is computed: "bf16_dot",
            "bf16_fma", "fp16", "fp32", "int8" are kernels that expand the packed weight, "amx" one
            that does so into the processor's tiles, "spmm" is one that skips its zeros, "unpack"
            is `F.linear` on rows unpacked at a time, "dense" the dense weight that is kept.
        speedups: for each bucket, measured time of the dense layer over that of its way; empty
            where nothing was measured.
    """

    dtype: str = ""
    ways: Mapping[str, str] = field(default_factory=dict)
    speedups: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AccelerationReport(Acceleration):
    """What `accelerate` did.

    Attributes:
        layers: every linear layer of the model, in the order of its modules.
        runtime: what `runtime_info` said.
    """

    layers: tuple[LayerReport, ...] = ()
    runtime: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{self.sparse_layers} of {len(self.layers)} linear layers packed, "
            f"{self.dense_bytes / 1e6:.1f} MB -> {self.bytes / 1e6:.1f} MB"
        ]
        for layer in self.layers:
            size = f"{layer.shape[0]}x{layer.shape[1]} {layer.dtype}"
            lines.append(f"  {layer.name}: {size}, sparsity {layer.sparsity:.3f}: {layer.reason}")
        return "\n".join(lines)
