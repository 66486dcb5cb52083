"""Writing a saved model with its weights packed, or dense again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .checkpoint import atomic_directory, atomic_write_text, check_target
from .errors import ModelError, UsageError
from .exported import ExportedFile, ExportResult, Format
from .packed import is_packed, pack_file, packed_name, unpack_file
from .packed.index import PackedFile, file_sizes, read_index, write_index
from .progress import Progress
from .weights import PACKED_INDEX, read_header

__all__ = ["export_directory"]

# Weights in other forms: dense copies that a loader might take instead of what is written.
_OTHER_WEIGHTS: Final = frozenset(
    [".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz", ".onnx", ".ot", ".pkl", ".pt", ".pth"]
)


def export_directory(
    source: Path, output: Path, form: Format, *, overwrite: bool, progress: Progress
) -> ExportResult:
    """Write `source` to `output` in another form; all but weights and hidden files is copied.

    Raises:
        UsageError: `source` has the form already, or `output` must not be written.
        ModelError: `source` holds no safetensors, or damaged ones.
    """
    began = time.perf_counter()
    if not source.is_dir():
        raise UsageError(
            f"there is no directory {source}; give one that `atp prune` or save_pretrained wrote"
        )
    if output.resolve() == source.resolve():
        raise UsageError(f"{output} is the source itself; choose another output directory")
    if is_packed(source) == (form == "packed"):
        raise UsageError(f"the weights of {source} are {form} already")
    check_target(output, overwrite_ok=overwrite)
    if form == "packed":
        weights = [path for path in _files(source, output) if path.suffix == ".safetensors"]
        if not weights:
            raise ModelError(
                f"{source} has no safetensors to pack; save the model with save_pretrained first"
            )
        for file in weights:
            read_header(file)
        needed = sum(file.stat().st_size for file in weights)
    else:
        index = read_index(source)
        weights = [source / entry.file for entry in index.values()]
        needed = sum(entry.header.end for entry in index.values())
    with atomic_directory(output, overwrite_ok=overwrite, needed_bytes=needed) as work:
        left_out = _copy(source, work, {*weights, source / PACKED_INDEX}, output)
        with progress.task(f"writing {form} weights", len(weights)) as advance:
            files = []
            if form == "packed":
                entries = {}
                for file in weights:
                    name, entry, done = _packed(source, file, work)
                    entries[name] = entry
                    files.append(done)
                    advance(name)
                atomic_write_text(work / PACKED_INDEX, write_index(entries))
            else:
                for name, entry in index.items():
                    (work / name).parent.mkdir(parents=True, exist_ok=True)
                    unpack_file(source / entry.file, entry, work / name)
                    files.append(_told(name, entry))
                    advance(name)
    return ExportResult(
        source=str(source),
        output=output,
        format=form,
        files=files,
        left_out=left_out,
        seconds=time.perf_counter() - began,
    )


def _packed(source: Path, file: Path, work: Path) -> tuple[str, PackedFile, ExportedFile]:
    name = file.relative_to(source).as_posix()
    target = work / packed_name(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    entry = pack_file(file, target, packed_name(name))
    return name, entry, _told(name, entry)


def _told(name: str, entry: PackedFile) -> ExportedFile:
    sizes = file_sizes(entry)
    return ExportedFile(name, entry.file, *sizes)


def _files(folder: Path, besides: Path) -> Iterator[Path]:
    """Every file under a folder, but for what is under `besides` and what is hidden."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.resolve() == besides.resolve():
            continue
        if path.is_dir():
            yield from _files(path, besides)
        elif path.is_file():
            yield path


def _copy(source: Path, work: Path, besides: set[Path], output: Path) -> list[str]:
    """Copy everything but weights; links become what they point to.

    Returns:
        What was left out for being weights in another form.
    """
    left_out = []
    for path in _files(source, output):
        name = path.relative_to(source)
        if path in besides:
            continue
        if path.suffix in _OTHER_WEIGHTS:
            left_out.append(name.as_posix())
            continue
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, work / name)
    return left_out
