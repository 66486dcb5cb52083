"""Turning a directory into its packed form, and back."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from .checkpoint import Sidecar, atomic_directory, has_sidecar, write_sidecar
from .errors import ModelError, UsageError
from .packed import INDEX_NAME, is_packed, pack_files, unpack_files
from .progress import Progress
from .weights import read_header

__all__ = ["ExportResult", "Form", "export_directory"]

Form = Literal["packed", "dense"]
_WEIGHTS: Final = ".safetensors"


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        source: the directory that was read.
        format: "packed" or "dense".
        output: the directory that was written.
        tensors: how many tensors are packed in the packed form.
        packed_from: bytes of these tensors when dense.
        packed_to: bytes of these tensors when packed.
        bytes_before: bytes of all weight files that were read.
        bytes_after: bytes of all weight files that were written.
    """

    source: str
    format: Form
    output: str
    tensors: int
    packed_from: int
    packed_to: int
    bytes_before: int
    bytes_after: int

    @property
    def ratio(self) -> float:
        """Packed bytes of the packed tensors over their dense bytes; 1 where there are none."""
        return self.packed_to / self.packed_from if self.packed_from else 1.0

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            "source": self.source,
            "format": self.format,
            "output": self.output,
            "tensors": self.tensors,
            "packed_from": self.packed_from,
            "packed_to": self.packed_to,
            "ratio": self.ratio,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
        }


def export_directory(
    source: Path, form: Form, output: Path, *, overwrite: bool, progress: Progress
) -> ExportResult:
    """Write `source` in another form; all but the weight files is copied as it is.

    Raises:
        UsageError: the source is no directory, has that form already, or the output must not be
            written.
        ModelError: the source has no weights, or they are damaged.
    """
    if not source.is_dir():
        raise UsageError(f"{source} is no directory; name one that `atp prune` wrote")
    if output.resolve() == source.resolve():
        raise UsageError("the output is the directory that is read; choose another")
    if is_packed(source) == (form == "packed"):
        raise UsageError(f"{source} is {form} already")
    files = sorted(file for file in source.iterdir() if file.suffix == _WEIGHTS)
    if not files:
        raise ModelError(f"{source} has no {_WEIGHTS} files; only these can be packed")
    before = sum(file.stat().st_size for file in files)
    total = sum(len(read_header(file)) for file in files)
    with (
        atomic_directory(output, overwrite_ok=overwrite, needed_bytes=before) as work,
        progress.task(f"writing {output.name}", total) as advance,
    ):
        shutil.copytree(
            source,
            work,
            dirs_exist_ok=True,
            ignore=lambda folder, names: [
                name
                for name in names
                if Path(folder) == source and (name == INDEX_NAME or name.endswith(_WEIGHTS))
            ],
        )
        if form == "packed":
            sizes = pack_files(files, work, advance)
        else:
            sizes = unpack_files(source, work, advance)
        if not has_sidecar(work):
            write_sidecar(work, Sidecar())
        after = sum(file.stat().st_size for file in work.iterdir() if file.suffix == _WEIGHTS)
    return ExportResult(
        source=str(source),
        format=form,
        output=str(output),
        tensors=len(sizes),
        packed_from=sum(dense for dense, _ in sizes.values()),
        packed_to=sum(packed for _, packed in sizes.values()),
        bytes_before=before,
        bytes_after=after,
    )
