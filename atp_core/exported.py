"""What `atp_core.export` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["ExportResult", "ExportedFile", "Format"]

Format = Literal["packed", "dense"]


@dataclass(frozen=True)
class ExportedFile:
    """A weight file in its two forms.

    Attributes:
        name: of the dense file, in its directory.
        packed_name: of the packed file.
        tensors: number of its tensors.
        packed_tensors: number of those that are packed: with enough zeros to become smaller.
        elements: of the packed tensors.
        nonzeros: of the packed tensors.
        dense_bytes: of the packed tensors when dense.
        packed_bytes: of their masks and values.
        dense_file_bytes: of the dense file.
        packed_file_bytes: of the packed file.
    """

    name: str
    packed_name: str
    tensors: int
    packed_tensors: int
    elements: int
    nonzeros: int
    dense_bytes: int
    packed_bytes: int
    dense_file_bytes: int
    packed_file_bytes: int


@dataclass(frozen=True)
class ExportResult:
    """What was written, and how large it is.

    Attributes:
        source: the directory that was read.
        output: the directory that was written.
        format: "packed" or "dense".
        files: the weight files.
        left_out: files of the source that were not copied: weights in other forms.
        seconds: wall time.
    """

    source: str
    output: Path
    format: Format
    files: Sequence[ExportedFile]
    left_out: Sequence[str]
    seconds: float

    def _sum(self, name: str) -> int:
        return sum(getattr(file, name) for file in self.files)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the packed tensors when dense."""
        return self._sum("dense_bytes")

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed tensors."""
        return self._sum("packed_bytes")

    @property
    def dense_total_bytes(self) -> int:
        """Bytes of all weight files when dense."""
        return self._sum("dense_file_bytes")

    @property
    def packed_total_bytes(self) -> int:
        """Bytes of all weight files when packed."""
        return self._sum("packed_file_bytes")

    @property
    def sparsity(self) -> float:
        """Share of zeros in the packed tensors; 0 where there are none."""
        elements = self._sum("elements")
        return 1 - self._sum("nonzeros") / elements if elements else 0.0

    @property
    def ratio(self) -> float:
        """Packed ÷ dense bytes of the packed tensors; 1 where there are none."""
        return self.packed_bytes / self.dense_bytes if self.dense_bytes else 1.0

    @property
    def total_ratio(self) -> float:
        """Packed ÷ dense bytes of all weight files."""
        return self.packed_total_bytes / self.dense_total_bytes if self.dense_total_bytes else 1.0

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            "source": self.source,
            "output": str(self.output),
            "format": self.format,
            "sparsity": self.sparsity,
            "dense_bytes": self.dense_bytes,
            "packed_bytes": self.packed_bytes,
            "ratio": self.ratio,
            "dense_total_bytes": self.dense_total_bytes,
            "packed_total_bytes": self.packed_total_bytes,
            "total_ratio": self.total_ratio,
            "files": [asdict(file) for file in self.files],
            "left_out": list(self.left_out),
            "seconds": self.seconds,
        }
