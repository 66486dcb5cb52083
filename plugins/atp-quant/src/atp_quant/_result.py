"""What a quantization returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atp_core.records import Metric
from atp_core.trials import Trial

__all__ = ["BlockBits", "QuantizeResult"]


@dataclass(frozen=True)
class BlockBits:
    """What was done to one block.

    Attributes:
        chain: name of its chain.
        name: name of the block.
        bits: width of its codes.
        parameters: quantized weights of the block.
        zeros: how many of them are zero.
    """

    chain: str
    name: str
    bits: int
    parameters: int
    zeros: int


@dataclass(frozen=True)
class QuantizeResult:
    """What was done to a model.

    Attributes:
        source: the model.
        settings: what was asked for, JSON-ready.
        blocks: every block, in order.
        beta: bits by which a block has fewer than the one before it; None where a file gave them.
        bits: of a weight on average, weighted by parameters.
        stored_bits: the same with scales and zero points.
        format: "compressed-tensors" or "dense".
        metrics: "dense", "uniform" (where that is not what was done) and "quantized", by name.
        trials: of the search.
        notes: what a user must know.
        difference: largest difference of an output after loading the packed file with
            transformers, as a share of the largest output; None where it was not compared.
        bytes_on_disk: of the weight files; None where nothing was written.
        seconds: wall time.
        output: the directory that was written.
        model: the quantized model in memory.
    """

    source: str
    settings: Mapping[str, Any]
    blocks: Sequence[BlockBits]
    beta: float | None
    bits: float
    stored_bits: float
    format: str
    metrics: Mapping[str, Mapping[str, Metric]]
    trials: Sequence[Trial]
    notes: Sequence[str]
    difference: float | None
    bytes_on_disk: int | None
    seconds: float
    output: Path | None
    model: Any

    @property
    def sparsity(self) -> float:
        """Share of the quantized weights that are zero."""
        zeros = sum(block.zeros for block in self.blocks)
        return zeros / sum(block.parameters for block in self.blocks)

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data but for NaN; "bits" can be given to `--allocation`."""
        bits: dict[str, dict[str, int]] = {}
        for block in self.blocks:
            bits.setdefault(block.chain, {})[block.name] = block.bits
        return {
            "source": self.source,
            "settings": dict(self.settings),
            "bits_average": self.bits,
            "bits_stored": self.stored_bits,
            "beta": self.beta,
            "sparsity": self.sparsity,
            "bits": bits,
            "blocks": [asdict(block) for block in self.blocks],
            "format": self.format,
            "metrics": {
                who: {name: asdict(metric) for name, metric in found.items()}
                for who, found in self.metrics.items()
            },
            "trials": [trial.to_dict() for trial in self.trials],
            "notes": list(self.notes),
            "difference_after_loading": self.difference,
            "bytes_on_disk": self.bytes_on_disk,
            "seconds": self.seconds,
            "output": None if self.output is None else str(self.output),
        }
