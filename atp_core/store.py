"""The weights of a model that need not fit in memory: read by name, written block by block.

Files are read, not mapped: pages of a mapping count as memory of the process for as long as the
kernel keeps them. For plugins and the engine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from .errors import ModelError
from .packed import Place, Weights, write_header
from .weights import Stored

__all__ = ["Join", "Split", "WeightStore"]

_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_SHARD: Final = 2 << 30
"""Bytes of a file of tensors outside blocks; each block is a file of its own."""

Join = Callable[[str, Mapping[str, torch.Tensor]], torch.Tensor]
"""Makes a model's tensor, by name, of the stored ones it consists of."""

Split = Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
"""The inverse: what is stored, by name, of some of the model's tensors."""


class WeightStore:
    """Tensors in safetensors files, and those that have replaced some of them since.

    What is replaced is kept in files too, so that a pruned model takes no more memory than the
    dense one: none but for the tensors that a caller holds.

    Args:
        files: dense or packed; each tensor is in one of them.
        parts: name of a model's tensor → names of the stored tensors it consists of; None where
            a tensor is stored under its own name.
        join: makes a tensor of its parts; None where it has one, which it equals.
        split: the inverse of `join`.

    Attributes:
        bytes_read: read from files so far.

    Raises:
        ModelError: a tensor has a dtype that cannot be pruned.
    """

    def __init__(
        self,
        files: Sequence[Weights],
        *,
        parts: Mapping[str, Sequence[str]] | None = None,
        join: Join | None = None,
        split: Split | None = None,
    ) -> None:
        self._source = {name: file for file in files for name in file.stored}
        for name, file in self._source.items():
            if (dtype := file.stored[name].dtype) not in _DTYPES:
                raise ModelError(
                    f"{name} in {file.file} is stored as {dtype}, which cannot be pruned; take a "
                    "checkpoint in float32, bfloat16 or float16"
                )
        self._replaced: dict[str, Weights] = {}
        self._written: list[Weights] = []
        self._parts, self._join, self._split = parts, join, split
        self.bytes_read = 0

    def __contains__(self, name: str) -> bool:
        return all(part in self._source for part in self._parts_of(name))

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of a model's tensors that are not stored."""
        return [name for name in names if name not in self]

    @property
    def replaced(self) -> bool:
        """Whether anything has been replaced."""
        return bool(self._replaced)

    @property
    def replaced_bytes(self) -> int:
        """Size of what has been replaced, which is on disk already and only moved to an output."""
        return sum(file.nbytes(name) for name, file in self._replaced.items())

    def read(self, name: str) -> torch.Tensor:
        """A model's tensor as it stands now, in the dtype it is stored in, on the CPU.

        Raises:
            ModelError: it is not stored, or its file has changed or cannot be read.
        """
        parts = self._parts_of(name)
        found = {part: self._load(part) for part in parts}
        if self._join is not None:
            return self._join(name, found)
        return found[parts[0]]

    def replace(self, tensors: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Let these stand for the stored ones from now on.

        Args:
            tensors: the model's, by name.
            directory: on disk, where they are written to a file of their own.
        """
        stored = self._stored(tensors)
        file = directory / f"{len(self._written):05d}.safetensors"
        kept = {name: tensor.detach().cpu() for name, tensor in stored.items()}
        heads = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in kept.items()]
        written = _write(file, heads, iter(kept.values()))
        self._written.append(written)
        self._replaced.update(dict.fromkeys(kept, written))

    def reset(self) -> None:
        """Let all tensors be those of the source again."""
        self._replaced.clear()
        for file in self._written:
            file.file.unlink(missing_ok=True)
        self._written.clear()

    def export(self, directory: Path, dtypes: Mapping[str, torch.dtype]) -> list[Path]:
        """Write the model as it stands, in the layout of transformers: shards and their index.

        Files of replaced tensors are moved there, so nothing can be read of them afterwards.

        Args:
            directory: empty, or without weights.
            dtypes: name of each of the model's tensors → the dtype to write it in.

        Returns:
            The shards.
        """
        shards: list[tuple[Path, Weights, list[str]]] = []
        for written in self._written:
            own = [name for name, file in self._replaced.items() if file is written]
            if own:
                moved = directory / f".{written.file.name}"
                shutil.move(written.file, moved)
                shards.append((moved, written, own))
        rest = [
            name
            for name in dtypes
            if not all(part in self._replaced for part in self._parts_of(name))
        ]
        for number, names in enumerate(self._grouped(rest, dtypes)):
            file = directory / f".rest-{number:05d}.safetensors"
            heads = [
                (part, dtypes[name], self._source[part].stored[part].shape)
                for name in names
                for part in self._parts_of(name)
            ]
            written = _write(file, heads, self._cast(names, dtypes))
            shards.append((file, written, list(written.stored)))
        named = [
            (directory / f"model-{i:05d}-of-{len(shards):05d}.safetensors", *shard)
            for i, shard in enumerate(shards, 1)
        ]
        table, total = {}, 0
        for final, file, weights, own in named:
            file.replace(final)
            for part in own:
                table[part] = final.name
                total += weights.nbytes(part)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(table.items()))}
        path = directory / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return [final for final, *_ in named]

    def _cast(
        self, names: Iterable[str], dtypes: Mapping[str, torch.dtype]
    ) -> Iterator[torch.Tensor]:
        """The stored tensors that some of the model's consist of, in their order."""
        for name in names:
            stored = self._stored({name: self.read(name).to(dtypes[name])})
            for part in self._parts_of(name):
                yield stored[part]

    def _grouped(
        self, names: Iterable[str], dtypes: Mapping[str, torch.dtype]
    ) -> Iterator[list[str]]:
        """Names in groups that fill a file each."""
        group: list[str] = []
        size = 0
        for name in names:
            own = sum(
                _numel(self._source[part].stored[part]) * dtypes[name].itemsize
                for part in self._parts_of(name)
            )
            if group and size + own > _SHARD:
                yield group
                group, size = [], 0
            group.append(name)
            size += own
        if group:
            yield group

    def _stored(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """What is stored of some of the model's tensors.

        Raises:
            ModelError: they cannot be taken apart into what they were made of.
        """
        found = tensors if self._split is None else self._split(tensors)
        wanted = {part for name in tensors for part in self._parts_of(name)}
        if self._split is not None and set(found) != wanted:
            odd = sorted(set(found) ^ wanted)
            raise ModelError(
                f"{next(iter(tensors))} cannot be written as it was stored (at {odd[0]}); "
                "prune this model in memory, without --max-memory"
            )
        return found

    def _parts_of(self, name: str) -> Sequence[str]:
        return (name,) if self._parts is None else self._parts.get(name, (name,))

    def _load(self, part: str) -> torch.Tensor:
        file = self._replaced.get(part) or self._source.get(part)
        if file is None:
            raise ModelError(f"the checkpoint has no tensor {part}; download it again")
        self.bytes_read += file.nbytes(part)
        return file.read(part)


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a tensor of bytes."""
    array: Any = tensor.numpy()
    return memoryview(array)


def _numel(stored: Stored) -> int:
    count = 1
    for size in stored.shape:
        count *= size
    return count


def _write(
    file: Path,
    heads: Sequence[tuple[str, torch.dtype, tuple[int, ...]]],
    tensors: Iterator[torch.Tensor],
) -> Weights:
    """Write a safetensors file, with one tensor at a time in memory.

    Args:
        file: to be made.
        heads: name, dtype and shape of each tensor.
        tensors: the tensors, in the same order.
    """
    places: dict[str, Place] = {}
    end = 0
    for name, dtype, shape in heads:
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        places[name] = Place(_NAMES[dtype], shape, start, end)
    text = write_header(places, {"format": "pt"})
    with file.open("wb", buffering=0) as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for (name, dtype, shape), tensor in zip(heads, tensors, strict=True):
            assert tensor.dtype == dtype and tuple(tensor.shape) == shape, name
            view = _bytes(tensor.contiguous().reshape(-1).view(torch.uint8))
            while view:
                view = view[out.write(view) :]
    return Weights(file, None)
