"""Checks of a GGUF file by its header, before anything is loaded."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Final

from atp_core.errors import ModelError

__all__ = ["verify_gguf"]

# Sizes in bytes of GGUF's metadata types; 8 is a string, 9 an array.
_SCALARS: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def verify_gguf(path: Path) -> None:
    """Check that a GGUF file is whole: it reaches to the end of the last tensor.

    Raises:
        ModelError: it is truncated, corrupt, or not a GGUF file.
    """
    remedy = "download it again"
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path} is not a GGUF file")
            end = _gguf_end(file, size)
    except (struct.error, ValueError, OverflowError, MemoryError):
        raise ModelError(
            f"{path} is truncated or corrupt: its header cannot be read; {remedy}"
        ) from None
    if size < end:
        raise ModelError(
            f"{path} is truncated: its header describes {end:,} bytes and it has {size:,}; {remedy}"
        )


def _gguf_end(file: BinaryIO, size: int) -> int:
    """Offset at which the last tensor ends, without the padding after it."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    def number(form: str) -> int:
        return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])

    def skip(count: int) -> None:
        if count < 0 or file.tell() + count > size:
            raise ValueError(count)
        file.seek(count, 1)

    def string() -> bytes:
        length = number("<Q")
        if length > size:
            raise ValueError(length)
        return file.read(length)

    def value(kind: int) -> int | None:
        if kind == 8:
            skip(number("<Q"))
        elif kind == 9:
            of, count = number("<I"), number("<Q")
            if of in _SCALARS:
                skip(_SCALARS[of] * count)
            else:
                if count > size:
                    raise ValueError(count)
                for _ in range(count):
                    value(of)
        elif kind == 4:
            return number("<I")
        elif kind in _SCALARS:
            skip(_SCALARS[kind])
        else:
            raise ValueError(kind)
        return None

    number("<I")  # version
    tensors, pairs = number("<Q"), number("<Q")
    alignment = 32
    for _ in range(pairs):
        key = string()
        found = value(number("<I"))
        if key == b"general.alignment" and found:
            alignment = found
    end = 0
    for _ in range(tensors):
        string()
        elements = 1
        for _ in range(number("<I")):
            elements *= number("<Q")
        block, stored = GGML_QUANT_SIZES[GGMLQuantizationType(number("<I"))]
        end = max(end, number("<Q") + elements // block * stored)
    return -(-file.tell() // alignment) * alignment + end
