"""Packing a safetensors file, and writing it dense again, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ._bits import CHUNK_BYTES, mask_columns, matrix_of, pack_rows, rows_at_once
from ._read import PackedReader
from ._safetensors import ITEM_BYTES, Header, Place
from .index import PackedFile, PackedTensor, digest

__all__ = ["pack_file", "packed_name", "unpack_file"]


def packed_name(name: str) -> str:
    """The packed file's name for a dense one: ``model.safetensors`` → ``model.packed.safetensors``.

    Under another name no loader takes it for the dense file.
    """
    return f"{name.removesuffix('.safetensors')}.packed.safetensors"


def pack_file(dense: Path, target: Path, name: str) -> PackedFile:
    """Write the packed form of a dense file.

    The file is read twice, a few megabytes at a time.

    Args:
        dense: safetensors.
        target: the file to write.
        name: path of `target` in the directory of the index, with slashes.

    Returns:
        What the index has to say of it.

    Raises:
        ModelError: `dense` is damaged.
    """
    header = Header.read(dense)
    with dense.open("rb") as source:
        planned = {
            one: _plan(source, header, one, place) for one, place in header.tensors.items()
        }
        written = PackedFile(name, header, planned).layout()
        with target.open("wb") as out:
            out.write(len(written.text).to_bytes(8, "little") + written.text)
            out.truncate(written.end)
            tensors = {
                one: _write(source, header, out, written, one, plan)
                for one, plan in planned.items()
            }
    return PackedFile(name, header, tensors)


def unpack_file(packed: Path, entry: PackedFile, target: Path) -> None:
    """Write the dense file again, byte for byte, a few megabytes at a time.

    Args:
        packed: the packed file.
        entry: what the index says of it.
        target: the file to write.

    Raises:
        ModelError: the packed file is damaged or was altered.
    """
    header = entry.header
    with PackedReader(packed, entry) as reader, target.open("wb") as out:
        out.write(len(header.text).to_bytes(8, "little") + header.text)
        for name in header.tensors:  # in the order of their bytes, without holes
            for chunk in reader.chunks(name):
                out.write(chunk.data)


def _chunks(source: BinaryIO, at: int, total: int, step: int) -> Iterator[bytes]:
    """The `total` bytes from `at` on, `step` at a time."""
    source.seek(at)
    while total > 0:
        chunk = source.read(min(step, total))
        if not chunk:
            raise EOFError("the file became shorter while it was read")
        total -= len(chunk)
        yield chunk


def _plan(source: BinaryIO, header: Header, name: str, place: Place) -> PackedTensor:
    """How a tensor is to be stored; without checksums yet."""
    plain = PackedTensor(place.dtype, place.shape, {})
    item = ITEM_BYTES.get(place.dtype)
    taken = {f"{name}.mask", f"{name}.values"} & set(header.tensors)
    if item is None or len(place.shape) < 2 or place.numel == 0 or taken:
        return plain
    step = CHUNK_BYTES // item * item
    nonzeros = sum(
        int(np.count_nonzero(np.frombuffer(chunk, dtype=f"u{item}")))
        for chunk in _chunks(source, header.data + place.start, place.nbytes, step)
    )
    rows, columns = matrix_of(place.shape)
    if rows * mask_columns(columns) + nonzeros * item >= place.nbytes:
        return plain
    return PackedTensor(place.dtype, place.shape, {}, (rows, columns), nonzeros)


def _write(
    source: BinaryIO, header: Header, out: BinaryIO, written: Header, name: str, plan: PackedTensor
) -> PackedTensor:
    """Write the parts of a tensor, and tell their checksums."""
    place = header.tensors[name]
    parts = plan.parts(name)
    at = {part: written.data + written.tensors[parts[part][0]].start for part in parts}
    sums = {part: digest() for part in parts}

    def put(part: str, data: bytes) -> None:
        out.seek(at[part])
        out.write(data)
        sums[part].update(data)
        at[part] += len(data)

    start = header.data + place.start
    if plan.matrix is None:
        for chunk in _chunks(source, start, place.nbytes, CHUNK_BYTES):
            put("data", chunk)
    else:
        item, columns = ITEM_BYTES[plan.dtype], plan.matrix[1]
        step = rows_at_once(columns, item) * columns * item
        for chunk in _chunks(source, start, place.nbytes, step):
            mask, values = pack_rows(np.frombuffer(chunk, dtype=np.uint8), columns, item)
            put("mask", mask.tobytes())
            put("values", values.tobytes())
    checksums = {part: one.hexdigest() for part, one in sums.items()}
    return PackedTensor(plan.dtype, plan.shape, checksums, plan.matrix, plan.nonzeros)
