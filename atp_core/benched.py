"""What `atp_core.bench` returns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .runtime import Acceleration

__all__ = ["BenchResult", "BenchedWorkload"]


@dataclass(frozen=True)
class BenchedWorkload:
    """The times of one kind of work, dense and sparse, in pairs.

    Attributes:
        name: what is done, e.g. "decode".
        batch: samples that go through at once.
        unit: what is counted, e.g. "tokens".
        items: how many of them a pass does.
        convention: what a pass is, for the user.
        dense: seconds of each dense pass.
        sparse: seconds of each sparse pass, which ran next to the dense one of its place.
    """

    name: str
    batch: int
    unit: str
    items: int
    convention: str
    dense: Sequence[float]
    sparse: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """How much faster sparse was, pair by pair."""
        return [one / other for one, other in zip(self.dense, self.sparse, strict=True)]

    @property
    def speedup(self) -> float:
        """Median of the ratios; above 1 where sparse is faster."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile of the ratios."""
        ratios = self.ratios
        if len(ratios) < 2:
            return ratios[0], ratios[0]
        first, _, third = statistics.quantiles(ratios, n=4, method="inclusive")
        return first, third

    @property
    def dense_rate(self) -> float:
        """Items a second, by the median pass."""
        return self.items / statistics.median(self.dense)

    @property
    def sparse_rate(self) -> float:
        """Items a second, by the median pass."""
        return self.items / statistics.median(self.sparse)

    def to_json(self) -> dict[str, Any]:
        """The times as JSON-ready data."""
        return {
            "name": self.name,
            "batch": self.batch,
            "unit": self.unit,
            "items": self.items,
            "convention": self.convention,
            "dense_per_second": self.dense_rate,
            "sparse_per_second": self.sparse_rate,
            "speedup": self.speedup,
            "spread": list(self.spread),
            "dense_seconds": list(self.dense),
            "sparse_seconds": list(self.sparse),
        }


@dataclass(frozen=True)
class BenchResult:
    """How fast a model is, dense and sparse, and how much its weights take.

    Attributes:
        source: the model.
        plugin: the plugin that handles it.
        runtime: name of the sparse runtime.
        info: what is live of it: instruction set, compiler, threads.
        device: what it ran on.
        dtype: of the weights.
        threads: of torch.
        acceleration: which layers ran sparse, and why others did not.
        dense_bytes: of all parameters and buffers when dense.
        sparse_bytes: of all of them with the layers as the runtime keeps them.
        workloads: the times.
        environment: versions and machine.
        seconds: wall time.
    """

    source: str
    plugin: str
    runtime: str
    info: Mapping[str, str]
    device: str
    dtype: str
    threads: int
    acceleration: Acceleration
    dense_bytes: int
    sparse_bytes: int
    workloads: Sequence[BenchedWorkload]
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def sparsity(self) -> float:
        """Share of zeros in the layers that the runtime looked at; 0 where there are none."""
        sizes = [layer.shape[0] * layer.shape[1] for layer in self.acceleration.layers]
        zeros = sum(
            size * layer.sparsity
            for size, layer in zip(sizes, self.acceleration.layers, strict=True)
        )
        return zeros / sum(sizes) if sizes else 0.0

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            "source": self.source,
            "plugin": self.plugin,
            "runtime": self.runtime,
            "info": dict(self.info),
            "device": self.device,
            "dtype": self.dtype,
            "threads": self.threads,
            "sparsity": self.sparsity,
            "dense_bytes": self.dense_bytes,
            "sparse_bytes": self.sparse_bytes,
            "workloads": [work.to_json() for work in self.workloads],
            "acceleration": self.acceleration.to_json(),
            "environment": dict(self.environment),
            "seconds": self.seconds,
        }
