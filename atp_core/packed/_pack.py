"""From safetensors files to packed ones."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..weights import Stored, read_header
from ._bits import Bits, checksum, packed, raw, worthwhile
from ._format import INDEX_NAME, KEY, MASK, VALUES, VERSION, Entry, packed_name
from ._stream import aligned, write_stream

__all__ = ["pack_files"]


def pack_files(
    files: Sequence[Path], directory: Path, advance: Callable[[str], None] = lambda _: None
) -> dict[str, tuple[int, int]]:
    """Write packed forms of safetensors files, and their index, to a directory.

    Args:
        files: dense.
        directory: exists.
        advance: called with the name of each tensor that is done.

    Returns:
        Name of each tensor that was packed → its bytes before and after.

    Raises:
        ModelError: a file is truncated or no safetensors file.
    """
    index: dict[str, Any] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for file in files:
        header = read_header(file)
        entries: dict[str, Entry] = {}
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            longest = {
                name: Entry(2**32 - 1, stored.shape, 0).to_dict() for name, stored in header.items()
            }
            names = [n + end for n in header for end in ("", MASK, VALUES)]
            head = write_stream(
                directory / packed_name(file.name),
                names,
                _parts(opened, header, entries, metadata, sizes, advance),
                metadata,
                {**metadata, KEY: _told(longest)},
            )
        index[packed_name(file.name)] = {"header_crc32": f"{zlib.crc32(head):08x}"}
    text = json.dumps({"format": "atp-packed", "version": VERSION, "files": index}, indent=1)
    (directory / INDEX_NAME).write_text(text + "\n", "utf-8")
    return sizes


def _parts(
    opened: Any,
    header: dict[str, Stored],
    entries: dict[str, Entry],
    metadata: dict[str, str],
    sizes: dict[str, tuple[int, int]],
    advance: Callable[[str], None],
) -> Iterator[tuple[str, str, tuple[int, ...], Bits]]:
    masked = []
    for name in aligned(header):
        tensor, stored = opened.get_tensor(name), header[name]
        if worthwhile(tensor):
            mask, values = packed(tensor)
            entries[name] = Entry(checksum(mask, values), stored.shape, values.size)
            sizes[name] = (tensor.nbytes, mask.nbytes + values.nbytes)
            masked.append(name)
            yield name + VALUES, stored.dtype, values.shape, values
        else:
            bits = raw(tensor)
            entries[name] = Entry(checksum(bits))
            yield name, stored.dtype, stored.shape, bits
        advance(name)
    # Single bytes come last, so that all others lie at multiples of their width.
    for name in masked:
        mask, _ = packed(opened.get_tensor(name))
        yield name + MASK, "U8", mask.shape, mask
    metadata[KEY] = _told({name: entry.to_dict() for name, entry in entries.items()})


def _told(tensors: dict[str, Any]) -> str:
    return json.dumps({"version": VERSION, "tensors": tensors}, separators=(",", ":"))
