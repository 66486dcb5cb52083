"""A safetensors file written tensor by tensor, its header last."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError
from ..weights import Stored
from ._bits import Bits

__all__ = ["aligned", "write_stream"]

# What a figure of bytes can take in a header; the least whitespace is cut, the rest stays.
_DIGITS = 10**19


_WIDTHS = {"64": 8, "32": 4, "16": 2}


def aligned(header: Mapping[str, Stored]) -> list[str]:
    """Names of tensors, wide dtypes first: without gaps, each then lies at a multiple of its width.

    Readers that map files into memory need that.
    """
    return sorted(header, key=lambda name: -_WIDTHS.get(header[name].dtype[-2:], 1))


def write_stream(
    file: Path,
    names: Iterable[str],
    tensors: Iterable[tuple[str, str, tuple[int, ...], Bits]],
    metadata: Mapping[str, str],
    least: Mapping[str, str],
) -> bytes:
    """Write tensors as they come, holding one at a time.

    The format demands the header first, with the sizes in it. Room for the longest header is left,
    and what it does not take is filled with the spaces that the format allows.

    Args:
        file: what to write.
        names: at least the names that will come.
        tensors: name, dtype in safetensors' spelling, shape and bits of each.
        metadata: filled in by whoever yields the tensors, complete when the last has come.
        least: the longest form of the metadata.

    Returns:
        The header, its length included.
    """
    longest = {name: _entry("F8_E4M3XXXX", (_DIGITS,) * 8, _DIGITS, _DIGITS) for name in names}
    room = len(_encoded(longest, least))
    room += -room % 8
    entries: dict[str, Any] = {}
    at = 0
    with file.open("wb") as opened:
        opened.seek(8 + room)
        for name, dtype, shape, bits in tensors:
            data = np.ascontiguousarray(bits).reshape(-1).view(np.uint8).data
            opened.write(data)
            entries[name] = _entry(dtype, shape, at, at + len(data))
            at += len(data)
        header = _encoded(entries, metadata)
        if len(header) > room:
            raise ModelError(f"the header of {file} is longer than was thought")
        head = room.to_bytes(8, "little") + header.ljust(room)
        opened.seek(0)
        opened.write(head)
        opened.truncate(8 + room + at)
    return head


def _entry(dtype: str, shape: tuple[int, ...], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def _encoded(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    header = {"__metadata__": dict(metadata), **entries}
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
