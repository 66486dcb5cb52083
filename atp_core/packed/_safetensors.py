"""Headers of safetensors files with the places of the tensors, and the sizes of dtypes.

Form: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError
from ..weights import header_text

__all__ = ["ITEM_BYTES", "Header", "Place", "parse_header", "write_header"]

ITEM_BYTES: Final[Mapping[str, int]] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes of one element, of the dtypes that have whole bytes."""


@dataclass(frozen=True)
class Place:
    """A tensor in a file.

    Attributes:
        dtype: in the spelling of safetensors.
        shape: its shape.
        start: of its bytes, counted from the end of the header.
        stop: of its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return self.stop - self.start

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The header of a file.

    Attributes:
        text: as it stands in the file.
        tensors: by name, in the order of their bytes.
        metadata: what is under ``__metadata__``.
    """

    text: bytes
    tensors: Mapping[str, Place]
    metadata: Mapping[str, str]

    @property
    def data(self) -> int:
        """Where the tensors begin in the file."""
        return 8 + len(self.text)

    @property
    def end(self) -> int:
        """Length of the file."""
        return self.data + max((place.stop for place in self.tensors.values()), default=0)

    @classmethod
    def read(cls, path: Path) -> Header:
        """The header of a file, which is as long as it says and has no holes.

        Raises:
            ModelError: it is damaged.
        """
        return parse_header(header_text(path), str(path))


def parse_header(text: bytes, where: str) -> Header:
    """A header from its JSON.

    Args:
        text: the JSON.
        where: what it is the header of, for errors.

    Raises:
        ModelError: it is no header, or tensors overlap or leave holes.
    """
    try:
        found: Mapping[str, Any] = json.loads(text)
        places = {
            str(name): Place(
                str(told["dtype"]),
                tuple(int(size) for size in told["shape"]),
                *(int(offset) for offset in told["data_offsets"]),
            )
            for name, told in found.items()
            if name != "__metadata__"
        }
        metadata = {str(k): str(v) for k, v in (found.get("__metadata__") or {}).items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ModelError(f"the header of {where} is corrupt; download or write it again") from None
    at = 0
    ordered = dict(sorted(places.items(), key=lambda item: (item[1].start, item[1].stop)))
    for name, place in ordered.items():
        size = ITEM_BYTES.get(place.dtype)
        bad = min(place.shape, default=0) < 0 or (
            size is not None and place.nbytes != size * place.numel
        )
        if bad or place.start != at or place.stop < place.start:
            raise ModelError(
                f"the header of {where} is corrupt: {name} does not lie where its shape says; "
                "download or write it again"
            )
        at = place.stop
    return Header(text, ordered, metadata)


def write_header(tensors: Mapping[str, Place], metadata: Mapping[str, str]) -> bytes:
    """The JSON of a header, padded with spaces so that tensors begin at a multiple of 8."""
    found: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, place in tensors.items():
        found[name] = {
            "dtype": place.dtype,
            "shape": list(place.shape),
            "data_offsets": [place.start, place.stop],
        }
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)
