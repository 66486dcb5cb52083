"""Reading packed files, and dense ones alike, checked down to the last byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from ..errors import ModelError
from ..weights import Stored, find_shards
from ._bits import CHUNK_BYTES, Bytes, mask_columns, rows_at_once, unpack_rows
from ._safetensors import ITEM_BYTES, Header
from .index import METADATA_KEY, PackedFile, digest, is_packed, read_index

if TYPE_CHECKING:
    import torch

__all__ = ["PackedReader", "Weights", "open_shards", "open_weights", "weights_file"]

_REMEDY: Final = "download or export it again"


class PackedReader:
    """A packed file that was held against its index; every part is checked as it is read.

    Args:
        path: the packed file.
        entry: what the index says of it.

    Raises:
        ModelError: it is missing, truncated, or holds other tensors than the index says.
    """

    def __init__(self, path: Path, entry: PackedFile) -> None:
        self._path, self._entry = path, entry
        self._header = Header.read(path)
        if METADATA_KEY not in self._header.metadata:
            raise ModelError(f"{path} does not say that it is packed; {_REMEDY}")
        wanted = {
            stored: (dtype, shape)
            for name, tensor in entry.tensors.items()
            for stored, dtype, shape in tensor.parts(name).values()
        }
        found = {name: (one.dtype, one.shape) for name, one in self._header.tensors.items()}
        if wanted != found:
            [wrong, *_] = sorted(
                name for name in {*wanted, *found} if wanted.get(name) != found.get(name)
            )
            raise ModelError(f"{path} does not fit its index at {wrong}; {_REMEDY}")
        self._file = path.open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def chunks(self, name: str) -> Iterator[Bytes]:
        """The dense bytes of a tensor, in order, a few megabytes at a time.

        What was yielded is sure only once all of it was.

        Raises:
            ModelError: it was altered.
        """
        tensor = self._entry.tensors[name]
        parts = tensor.parts(name)
        places = {part: self._header.tensors[stored] for part, (stored, _, _) in parts.items()}
        at = {part: self._header.data + place.start for part, place in places.items()}
        sums = {part: digest() for part in parts}

        def take(part: str, count: int) -> Bytes:
            self._file.seek(at[part])
            data = self._file.read(count)
            if len(data) != count:
                raise self._altered(name)
            at[part] += count
            sums[part].update(data)
            return np.frombuffer(data, dtype=np.uint8)

        if tensor.matrix is None:
            left = self._header.tensors[name].nbytes
            while left:
                chunk = take("data", min(left, CHUNK_BYTES))
                left -= len(chunk)
                yield chunk
        else:
            rows, columns = tensor.matrix
            item, width = ITEM_BYTES[tensor.dtype], mask_columns(columns)
            left = tensor.nonzeros or 0
            step = rows_at_once(columns, item)
            for row in range(0, rows, step):
                mask = take("mask", min(step, rows - row) * width).reshape(-1, width)
                count = int(np.bitwise_count(mask).sum()) if _COUNTS else _popcount(mask)
                if count > left:
                    raise self._altered(name)
                left -= count
                dense = unpack_rows(mask, take("values", count * item), columns, item)
                if dense is None:
                    raise self._altered(name)
                yield dense
            if left:
                raise self._altered(name)
        if any(sums[part].hexdigest() != tensor.checksums[part] for part in parts):
            raise self._altered(name)

    def bytes_of(self, name: str) -> Bytes:
        """All dense bytes of a tensor.

        Raises:
            ModelError: it was altered.
        """
        whole = np.empty(self._entry.header.tensors[name].nbytes, dtype=np.uint8)
        at = 0
        for chunk in self.chunks(name):
            whole[at : at + len(chunk)] = chunk
            at += len(chunk)
        return whole

    def _altered(self, name: str) -> ModelError:
        return ModelError(f"{name} in {self._path} was altered or is damaged; {_REMEDY}")


_COUNTS: Final = hasattr(np, "bitwise_count")  # NumPy 2


def _popcount(mask: Bytes) -> int:
    return int(np.count_nonzero(np.unpackbits(mask)))


class Weights:
    """The tensors of a safetensors file, dense or packed.

    Args:
        file: the file that is read.
        entry: what the index of packed weights says of it; None where it is dense.
    """

    def __init__(self, file: Path, entry: PackedFile | None) -> None:
        self.file = file
        self._entry = entry
        if entry is None:
            self._header = Header.read(file)
        else:
            PackedReader(file, entry).__exit__(None, None, None)
            self._header = entry.header
        self.stored: Mapping[str, Stored] = {
            name: Stored(one.dtype, one.shape) for name, one in self._header.tensors.items()
        }
        """Dtypes and shapes by name, as in the dense file."""

    @property
    def packed(self) -> bool:
        """Whether the file is packed."""
        return self._entry is not None

    def nbytes(self, name: str) -> int:
        """Bytes of a tensor when dense."""
        return self._header.tensors[name].nbytes

    def read(self, name: str) -> torch.Tensor:
        """One tensor, dense, on the CPU; the file is read, not mapped.

        Raises:
            ModelError: it was altered, or has a dtype that this torch does not know.
        """
        if self._entry is None:
            return _tensor(self._bytes(name), name, self.stored[name])
        with PackedReader(self.file, self._entry) as reader:
            return _tensor(reader.bytes_of(name), name, self.stored[name])

    def state_dict(self, *, meta: bool = False) -> dict[str, torch.Tensor]:
        """All tensors, dense, on the CPU.

        Args:
            meta: without contents, on the meta device.

        Raises:
            ModelError: one was altered, or has a dtype that this torch does not know.
        """
        if meta:
            return {name: _empty(name, one) for name, one in self.stored.items()}
        if self._entry is None:
            from safetensors.torch import load_file

            return load_file(self.file)
        with PackedReader(self.file, self._entry) as reader:
            return {
                name: _tensor(reader.bytes_of(name), name, one) for name, one in self.stored.items()
            }

    def _bytes(self, name: str) -> Bytes:
        place = self._header.tensors[name]
        whole = np.empty(place.nbytes, dtype=np.uint8)
        view, done = whole.data, 0
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(self._header.data + place.start)
                while done < len(view):
                    count = file.readinto(view[done:])
                    if not count:
                        raise ModelError(
                            f"{self.file} ends inside {name}: it has changed since it was opened; "
                            "leave the checkpoint alone while it is used"
                        )
                    done += count
        except OSError as error:
            raise ModelError(
                f"{name} cannot be read from {self.file}: {error.strerror or error}; leave the "
                "checkpoint alone while it is used"
            ) from None
        return whole


def _tensor(data: Bytes, name: str, stored: Stored) -> torch.Tensor:
    import torch

    if not len(data):
        return torch.empty(stored.shape, dtype=_dtype(name, stored))
    return torch.from_numpy(data).view(_dtype(name, stored)).reshape(stored.shape)


def _empty(name: str, stored: Stored) -> torch.Tensor:
    import torch

    return torch.empty(stored.shape, dtype=_dtype(name, stored), device="meta")


def _dtype(name: str, stored: Stored) -> torch.dtype:
    import torch

    found: torch.dtype | None = getattr(torch, _TORCH.get(stored.dtype, ""), None)
    if found is None:
        raise ModelError(f"{name} is {stored.dtype}, which torch {torch.__version__} does not know")
    return found


_TORCH: Final[Mapping[str, str]] = {
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16"},
    **{"U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64"},
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
    **{"C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
    **{"F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
    "F8_E8M0": "float8_e8m0fnu",
}


def open_weights(file: Path) -> Weights:
    """A safetensors file, dense or packed; a packed one has its index beside it.

    Raises:
        ModelError: it is missing, damaged, a pickle, or does not fit its index.
    """
    for folder in (file.parent, *file.parent.parents):
        if not is_packed(folder):
            continue
        name = file.relative_to(folder).as_posix()
        for entry in read_index(folder).values():
            if entry.file == name:
                return Weights(file, entry)
        break
    return Weights(file, None)


def weights_file(dense: Path) -> Path | None:
    """The file that holds the weights of `dense`: itself, or the packed one that stands for it.

    Returns:
        None where there is neither.

    Raises:
        ModelError: the index of packed weights is damaged.
    """
    if dense.is_file():
        return dense
    if is_packed(dense.parent):
        entry = read_index(dense.parent).get(dense.name)
        if entry is not None:
            return dense.parent / entry.file
    return None


def open_shards(directory: Path, *convert: str) -> Sequence[Weights]:
    """All weight files of a directory in transformers' layout, dense or packed.

    Args:
        directory: local.
        *convert: how to make safetensors of pickles, as for `atp_core.weights.find_shards`.

    Raises:
        ModelError: there are none, one is missing or damaged, or only pickles are there.
    """
    if not is_packed(directory):
        return [Weights(file, None) for file in find_shards(directory, *convert)]
    return [Weights(directory / one.file, one) for one in read_index(directory).values()]
