"""Checks of weight files by their headers, before anything is loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

from atp_core.errors import ModelError

__all__ = ["verify_gguf", "verify_safetensors", "weight_files"]

_MAX_HEADER: Final = 100_000_000  # the limit of the safetensors format
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Sizes in bytes of GGUF's metadata types; 8 is a string, 9 an array.
_SCALARS: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that transformers will read from a local directory.

    Raises:
        ModelError: there are none, a shard of the index is missing, or only pickles are there.
    """
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            names = sorted(set(shards))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ModelError(f"{index} is not a valid index of shards; download it again") from None
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise ModelError(
                f"{directory} lacks {len(missing)} of {len(names)} shards named in {index.name}: "
                f"{', '.join(missing[:3])}; download them again"
            )
        return [directory / name for name in names]
    pickles = sorted(file.name for pattern in _PICKLES for file in directory.glob(pattern))
    if pickles:
        raise ModelError(
            f"{directory} holds weights only as pickles ({pickles[0]}), which can run code when "
            "loaded and are refused. Where you trust them, convert them once with "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)"
        )
    raise ModelError(
        f"{directory} has no weights: expected model.safetensors, or model.safetensors.index.json "
        "with its shards"
    )


def verify_safetensors(path: Path) -> None:
    """Check that a safetensors file is as long as its header says.

    Raises:
        ModelError: it is truncated, too long, or not a safetensors file.
    """
    remedy = "download or write it again"
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(size - 8, _MAX_HEADER):
            raise ModelError(f"{path} is truncated or no safetensors file; {remedy}")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            ends = [
                int(tensor["data_offsets"][1])
                for name, tensor in header.items()
                if name != "__metadata__"
            ]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise ModelError(f"the header of {path} is corrupt; {remedy}") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ModelError(
            f"{path} is {'truncated' if size < expected else 'corrupt'}: its header describes "
            f"{expected:,} bytes and it has {size:,}; {remedy}"
        )


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
