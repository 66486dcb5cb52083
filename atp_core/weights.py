"""Weight files: safetensors and nothing else, checked by their headers before anything is loaded.

For plugins; nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import ModelError

__all__ = [
    "PACKED_INDEX",
    "Stored",
    "describe_files",
    "find_shards",
    "header_text",
    "read_header",
    "refuse_packed",
    "refuse_pickles",
]

PACKED_INDEX: Final = "atp-packed.json"
"""File that marks a directory whose weights are packed (`atp_core.packed`)."""

_MAX_HEADER: Final = 100_000_000  # the limit of the safetensors format
_HASHED: Final = 1_000_000_000  # bytes; larger files are told apart by size and time
_PICKLES: Final = frozenset([".bin", ".ckpt", ".npy", ".npz", ".pkl", ".pt", ".pth", ".tar"])
_CONVERT: Final = (
    "Where you trust it, convert it once: safetensors.torch.save_file(torch.load(FILE, "
    'map_location="cpu", weights_only=True), NEW)'
)


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        dtype: in the spelling of safetensors, e.g. "F32".
        shape: its shape.
    """

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, which is as long as its header says.

    Raises:
        ModelError: it is missing, truncated, too long, a pickle, or no safetensors file.
    """
    header: dict[str, Any] = json.loads(header_text(path))
    return {
        name: Stored(str(told["dtype"]), tuple(map(int, told["shape"])))
        for name, told in header.items()
        if name != "__metadata__"
    }


def header_text(path: Path) -> bytes:
    """The header of a safetensors file: JSON, as it stands there, padding included.

    Raises:
        ModelError: as `read_header` does.
    """
    if path.suffix in _PICKLES:
        raise _refused(path, _CONVERT)
    if not path.is_file():
        raise ModelError(f"there is no weight file {path}; check the path")
    remedy = "download or write it again"
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(size - 8, _MAX_HEADER):
            raise ModelError(f"{path} is truncated or no safetensors file; {remedy}")
        try:
            text = file.read(length)
            header: Mapping[str, Any] = json.loads(text)
            entries = {name: told for name, told in header.items() if name != "__metadata__"}
            end = max((int(told["data_offsets"][1]) for told in entries.values()), default=0)
            for told in entries.values():
                Stored(str(told["dtype"]), tuple(map(int, told["shape"])))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise ModelError(f"the header of {path} is corrupt; {remedy}") from None
    expected = 8 + length + end
    if size != expected:
        raise ModelError(
            f"{path} is {'truncated' if size < expected else 'corrupt'}: its header describes "
            f"{expected:,} bytes and it has {size:,}; {remedy}"
        )
    return text


def find_shards(directory: Path, convert: str = _CONVERT) -> list[Path]:
    """The safetensors files of a directory in transformers' layout: one, or those of its index.

    Args:
        directory: local; packed ones are for `atp_core.packed`.
        convert: how to make safetensors of pickles, where there is nothing else.

    Raises:
        ModelError: there are none, a shard of the index is missing, or only pickles are there.
    """
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    refuse_packed(directory)
    if not index.is_file():
        refuse_pickles(directory, convert)
        raise ModelError(
            f"{directory} has no weights: expected model.safetensors, or {index.name} with its "
            "shards"
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index} is not a valid index of shards; download it again") from None
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ModelError(
            f"{directory} lacks {len(missing)} of {len(names)} shards named in {index.name}: "
            f"{', '.join(missing[:3])}; download them again"
        )
    return [directory / name for name in names]


def refuse_packed(directory: Path) -> None:
    """Refuse a packed directory where only dense weights can be read.

    Raises:
        ModelError: it is one.
    """
    if (directory / PACKED_INDEX).is_file():
        raise ModelError(
            f"{directory} holds packed weights, which its plugin does not read; write them dense: "
            f"atp export {directory} --format dense -o NEW"
        )


def refuse_pickles(directory: Path, convert: str = _CONVERT) -> None:
    """Refuse a directory of pickles or packed weights, where safetensors were looked for in vain.

    Args:
        directory: local.
        convert: how to make safetensors of it, for the message.

    Raises:
        ModelError: it holds one.
    """
    refuse_packed(directory)
    pickles = sorted(file for file in directory.iterdir() if file.suffix in _PICKLES)
    if pickles:
        raise _refused(pickles[0], convert)


def describe_files(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, size and hash of weight files, for the provenance of a result.

    Files of 1 GB and more are told apart by the time of their last change instead.
    """
    entries = []
    for file in files:
        stat = file.stat()
        entry: dict[str, Any] = {"file": file.name, "bytes": stat.st_size}
        if stat.st_size < _HASHED:
            with file.open("rb") as opened:
                entry["sha256"] = hashlib.file_digest(opened, "sha256").hexdigest()
        else:
            entry["mtime"] = int(stat.st_mtime)
        entries.append(entry)
    return entries


def _refused(file: Path, convert: str) -> ModelError:
    return ModelError(
        f"{file} is a pickle, which can run code when loaded, and pickles are refused. {convert}"
    )
