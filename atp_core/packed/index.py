"""``atp-packed.json``: what is packed in a directory, where, and the checksums of all of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from ..errors import ModelError
from ..weights import PACKED_INDEX
from ._bits import mask_columns
from ._safetensors import ITEM_BYTES, Header, Place, parse_header, write_header

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "METADATA_KEY",
    "FileSizes",
    "PackedFile",
    "PackedTensor",
    "digest",
    "file_sizes",
    "is_packed",
    "read_index",
    "write_index",
]

FORMAT_NAME: Final = "atp-packed"
FORMAT_VERSION: Final = 1
"""Raised when a reader of the old form would misread the new one."""

METADATA_KEY: Final = "atp_packed"
"""Key in ``__metadata__`` of packed files; its value is the version."""


@dataclass(frozen=True)
class PackedTensor:
    """How one tensor is stored.

    Attributes:
        dtype: in the spelling of safetensors.
        shape: of the dense tensor.
        checksums: stored part ("data", or "mask" and "values") → BLAKE2b of its bytes.
        matrix: (rows, columns) that it is packed as; None where it is stored as it is.
        nonzeros: elements whose bits are not all zero; None where it is stored as it is.
    """

    dtype: str
    shape: tuple[int, ...]
    checksums: Mapping[str, str]
    matrix: tuple[int, int] | None = None
    nonzeros: int | None = None

    def parts(self, name: str) -> dict[str, tuple[str, str, tuple[int, ...]]]:
        """Part → its name in the packed file, its dtype and its shape."""
        if self.matrix is None or self.nonzeros is None:
            return {"data": (name, self.dtype, self.shape)}
        rows, columns = self.matrix
        return {
            "mask": (f"{name}.mask", "U8", (rows, mask_columns(columns))),
            "values": (f"{name}.values", self.dtype, (self.nonzeros,)),
        }

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the index."""
        found: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape)}
        if self.matrix is not None:
            found |= {"matrix": list(self.matrix), "nonzeros": self.nonzeros}
        return {**found, "checksums": dict(self.checksums)}


@dataclass(frozen=True)
class PackedFile:
    """A dense file and the one that stands for it.

    Attributes:
        file: path of the packed file, in the directory of the index.
        header: of the dense file.
        tensors: how each tensor is stored.
    """

    file: str
    header: Header
    tensors: Mapping[str, PackedTensor]

    def layout(self) -> Header:
        """The header of the packed file: the widest elements first, so that all are aligned."""
        sized: list[tuple[int, str, str, tuple[int, ...], int]] = []
        for name, tensor in self.tensors.items():
            for part, (stored, dtype, shape) in tensor.parts(name).items():
                item = ITEM_BYTES.get(dtype)
                width = 4 if part == "mask" else item or 0  # a mask is made of whole words
                nbytes = (
                    self.header.tensors[name].nbytes if item is None else item * math.prod(shape)
                )
                sized.append((-width, stored, dtype, shape, nbytes))
        places: dict[str, Place] = {}
        at = 0
        for _, stored, dtype, shape, nbytes in sorted(sized, key=lambda one: one[0]):
            places[stored] = Place(dtype, shape, at, at + nbytes)
            at += nbytes
        metadata = {**self.header.metadata, METADATA_KEY: str(FORMAT_VERSION)}
        return Header(write_header(places, metadata), places, metadata)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the index."""
        return {
            "file": self.file,
            "header": self.header.text.decode(),
            "tensors": {name: tensor.to_dict() for name, tensor in self.tensors.items()},
        }


class FileSizes(NamedTuple):
    """A file in its two forms.

    Attributes:
        tensors: number of its tensors.
        packed: number of those that are packed.
        elements: of the packed tensors.
        nonzeros: of the packed tensors.
        dense_bytes: of the packed tensors when dense.
        packed_bytes: of their masks and values.
        dense_file: bytes of the dense file, header included.
        packed_file: bytes of the packed file, header included.
    """

    tensors: int
    packed: int
    elements: int
    nonzeros: int
    dense_bytes: int
    packed_bytes: int
    dense_file: int
    packed_file: int


def file_sizes(entry: PackedFile) -> FileSizes:
    """How large a file is in either form."""
    packed = {name: one for name, one in entry.tensors.items() if one.matrix is not None}
    places = entry.layout().tensors
    return FileSizes(
        tensors=len(entry.tensors),
        packed=len(packed),
        elements=sum(entry.header.tensors[name].numel for name in packed),
        nonzeros=sum(one.nonzeros or 0 for one in packed.values()),
        dense_bytes=sum(entry.header.tensors[name].nbytes for name in packed),
        packed_bytes=sum(
            places[stored].nbytes
            for name, one in packed.items()
            for stored, _, _ in one.parts(name).values()
        ),
        dense_file=entry.header.end,
        packed_file=entry.layout().end,
    )


def is_packed(directory: Path) -> bool:
    """Whether a directory holds packed weights."""
    return (directory / PACKED_INDEX).is_file()


def digest(data: bytes = b"") -> hashlib.blake2b:
    """BLAKE2b of 128 bits, to be updated."""
    return hashlib.blake2b(data, digest_size=16)


def _checksum(files: Any) -> str:
    text = json.dumps(files, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return digest(text.encode()).hexdigest()


def write_index(files: Mapping[str, PackedFile]) -> str:
    """The text of an index.

    Args:
        files: path of each dense file, relative, with slashes → what stands for it.
    """
    told = {name: file.to_dict() for name, file in files.items()}
    index = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "checksum": _checksum(told),
        "files": told,
    }
    return json.dumps(index, indent=1, ensure_ascii=True) + "\n"


def read_index(directory: Path) -> dict[str, PackedFile]:
    """The index of a packed directory: dense file → what stands for it.

    Raises:
        ModelError: it is missing, altered, of a later version, or does not hold together.
    """
    path = directory / PACKED_INDEX
    remedy = "download or export it again"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        form, version, files = index["format"], index["version"], index["files"]
    except FileNotFoundError:
        raise ModelError(f"{directory} is not packed: it has no {PACKED_INDEX}") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise ModelError(f"{path} is no index of packed weights; {remedy}") from None
    if form != FORMAT_NAME or isinstance(version, bool) or not isinstance(version, int):
        raise ModelError(f"{path} is no index of packed weights; {remedy}")
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{path} has version {version} of the packed format, and this atp-prune reads version "
            f"{FORMAT_VERSION}; upgrade it: pip install -U atp-prune"
        )
    if index.get("checksum") != _checksum(files):
        raise ModelError(f"{path} was altered: its checksum does not fit; {remedy}")
    try:
        return {str(name): _file(told, path) for name, told in files.items()}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} is incomplete ({error!r}); {remedy}") from None


def _file(told: Mapping[str, Any], index: Path) -> PackedFile:
    name = str(told["file"])
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise ModelError(f"{index} names a file outside its directory: {name}; export it again")
    header = parse_header(str(told["header"]).encode(), f"a dense file in {index}")
    tensors = {str(name): _tensor(one) for name, one in told["tensors"].items()}
    if set(tensors) != set(header.tensors):
        raise ValueError("its header and its tensors differ")
    for one, tensor in tensors.items():
        _check(one, tensor, header.tensors[one])
    return PackedFile(name, header, tensors)


def _tensor(told: Mapping[str, Any]) -> PackedTensor:
    matrix = told.get("matrix")
    rows_columns = None if matrix is None else (int(matrix[0]), int(matrix[1]))
    return PackedTensor(
        str(told["dtype"]),
        tuple(int(size) for size in told["shape"]),
        {str(part): str(value) for part, value in told["checksums"].items()},
        rows_columns,
        None if rows_columns is None else int(told["nonzeros"]),
    )


def _check(name: str, tensor: PackedTensor, place: Place) -> None:
    if (tensor.dtype, tensor.shape) != (place.dtype, place.shape):
        raise ValueError(f"two shapes of {name}")
    if set(tensor.checksums) != set(tensor.parts(name)):
        raise ValueError(f"checksums of {name}")
    if tensor.matrix is None:
        return
    rows, columns = tensor.matrix
    whole = tensor.dtype in ITEM_BYTES and min(rows, columns) > 0
    if not whole or rows * columns != math.prod(tensor.shape):
        raise ValueError(f"matrix of {name}")
    if tensor.nonzeros is None or not 0 <= tensor.nonzeros <= rows * columns:
        raise ValueError(f"nonzeros of {name}")
