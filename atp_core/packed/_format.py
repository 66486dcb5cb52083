"""What a packed directory consists of, and how a damaged one is told."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError, UsageError
from ..weights import Stored, read_header

__all__ = [
    "INDEX_NAME",
    "KEY",
    "MASK",
    "VALUES",
    "VERSION",
    "Entry",
    "dense_name",
    "file_entries",
    "header_bytes",
    "is_packed",
    "packed_name",
    "read_index",
    "refused",
]

VERSION: Final = 1
INDEX_NAME: Final = "atp-packed.json"
KEY: Final = "atp_packed"
"""Key in the metadata of each safetensors file."""
MASK: Final = ".mask"
VALUES: Final = ".values"
_DENSE: Final = ".safetensors"
_PACKED: Final = ".packed.safetensors"


@dataclass(frozen=True)
class Entry:
    """A tensor of a packed file.

    Attributes:
        crc32: checksum of its bytes; of the mask and then the values, if packed.
        shape: of the dense tensor, if packed.
        nonzeros: how many values are stored, or None if it is stored dense.
    """

    crc32: int
    shape: tuple[int, ...] = ()
    nonzeros: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; every figure takes as many characters whatever it is."""
        told: dict[str, Any] = {"crc32": f"{self.crc32:08x}"}
        if self.nonzeros is not None:
            told |= {"shape": list(self.shape), "nonzeros": f"{self.nonzeros:020d}"}
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Entry:
        """What `to_dict` made.

        Raises:
            ValueError, TypeError, KeyError: it did not.
        """
        crc32 = int(told["crc32"], 16)
        if "nonzeros" not in told:
            return cls(crc32)
        return cls(crc32, tuple(map(int, told["shape"])), int(told["nonzeros"]))


def packed_name(name: str) -> str:
    """The name of a weight file when it is packed."""
    return name.removesuffix(_DENSE) + _PACKED


def dense_name(name: str) -> str:
    """The name of a packed weight file when it is dense."""
    return name.removesuffix(_PACKED) + _DENSE


def is_packed(directory: Path) -> bool:
    """Whether a directory holds a packed checkpoint; nothing is validated."""
    return (directory / INDEX_NAME).is_file()


def header_bytes(file: Path) -> bytes:
    """The header of a safetensors file, its length included."""
    with file.open("rb") as opened:
        head = opened.read(8)
        return head + opened.read(int.from_bytes(head, "little"))


def read_index(directory: Path) -> dict[str, int]:
    """Packed file name → checksum of its header.

    Raises:
        UsageError: the directory holds no packed checkpoint.
        ModelError: the index is damaged, or of a later version.
    """
    index = directory / INDEX_NAME
    if not index.is_file():
        raise UsageError(f"{directory} holds no packed checkpoint: it has no {INDEX_NAME}")
    try:
        told = json.loads(index.read_text("utf-8"))
        version = told["version"]
        files = {str(name): int(one["header_crc32"], 16) for name, one in told["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise refused(index, "it is not a valid index") from None
    if version != VERSION:
        raise ModelError(
            f"{index} is of version {version!r} of the packed format, and this atp-prune reads "
            f"version {VERSION}; upgrade atp-prune"
        )
    for name in files:
        if "/" in name or "\\" in name or not name.endswith(_PACKED):
            raise refused(index, f"{name!r} is not the name of a packed file")
    return files


def file_entries(file: Path, crc32: int) -> tuple[dict[str, Entry], dict[str, Stored]]:
    """The tensors of a packed file by name, and how each is stored: its values, if packed.

    Args:
        file: in a packed directory.
        crc32: what the index says of its header.

    Raises:
        ModelError: it is missing, truncated or altered.
    """
    stored = read_header(file)  # as long as it says
    head = header_bytes(file)
    if zlib.crc32(head) != crc32:
        raise refused(file, f"its header is not the one {INDEX_NAME} speaks of")
    try:
        told = json.loads(json.loads(head[8:])["__metadata__"][KEY])
        entries = {str(name): Entry.from_dict(one) for name, one in told["tensors"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise refused(file, f"its header has no valid {KEY!r}") from None
    wanted = set()
    for name, entry in entries.items():
        wanted |= {name} if entry.nonzeros is None else {name + MASK, name + VALUES}
    if wanted != set(stored):
        other = sorted(wanted ^ set(stored))[0]
        raise refused(file, f"tensor {other!r} is not both described and stored")
    return entries, {
        name: stored[name if entry.nonzeros is None else name + VALUES]
        for name, entry in entries.items()
    }


def refused(file: Path, why: str) -> ModelError:
    """What to raise for a damaged file."""
    return ModelError(f"{file} is damaged: {why}; download it or export it again")
