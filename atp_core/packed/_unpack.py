"""From packed files back to safetensors files, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..weights import Stored
from ._bits import Bits, checksum, raw, unpacked
from ._format import KEY, MASK, VALUES, Entry, dense_name, file_entries, read_index, refused
from ._stream import aligned, write_stream

__all__ = ["unpack_files"]


def unpack_files(
    packed: Path, directory: Path, advance: Callable[[str], None] = lambda _: None
) -> dict[str, tuple[int, int]]:
    """Write the dense weight files of a packed directory.

    Every tensor is checked: sizes, bits of the mask, number of values, checksum.

    Args:
        packed: the packed directory.
        directory: where to write; exists.
        advance: called with the name of each tensor that is done.

    Returns:
        Name of each tensor that was packed → its bytes when dense and packed.

    Raises:
        UsageError: the directory holds no packed checkpoint.
        ModelError: something is missing, truncated or altered; names the file and the tensor.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for name, crc32 in read_index(packed).items():
        file = packed / name
        entries, stored = file_entries(file, crc32)
        with safe_open(file, framework="pt") as opened:
            metadata = {k: v for k, v in (opened.metadata() or {}).items() if k != KEY}
            target = directory / dense_name(name)
            parts = _tensors(file, opened, entries, stored, sizes, advance)
            write_stream(target, entries, parts, metadata, metadata)
    return sizes


def _tensors(
    file: Path,
    opened: Any,
    entries: dict[str, Entry],
    stored: dict[str, Stored],
    sizes: dict[str, tuple[int, int]],
    advance: Callable[[str], None],
) -> Iterator[tuple[str, str, tuple[int, ...], Bits]]:
    for name in aligned(stored):
        entry, dtype = entries[name], stored[name].dtype
        try:
            if entry.nonzeros is None:
                shape = stored[name].shape
                bits = raw(opened.get_tensor(name))
                parts = [bits]
            else:
                shape = entry.shape
                mask, values = (raw(opened.get_tensor(name + end)) for end in (MASK, VALUES))
                parts = [mask, values]
                bits = unpacked(mask, values, shape)
                if values.size != entry.nonzeros:
                    raise ValueError(f"it has {values.size} values and not {entry.nonzeros}")
            if checksum(*parts) != entry.crc32:
                raise ValueError("its bytes have changed since it was written")
        except (ValueError, SafetensorError) as error:
            raise refused(file, f"tensor {name!r}: {error}") from None
        if entry.nonzeros is not None:
            sizes[name] = (bits.nbytes, sum(part.nbytes for part in parts))
        yield name, dtype, shape, bits
        advance(name)
