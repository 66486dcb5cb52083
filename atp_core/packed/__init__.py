"""Packed weights: the zeros of pruned tensors as bits, in safetensors files, without loss.

``docs/packed-format.md`` specifies the form. Plugins read dense and packed files alike through
`open_weights`; nothing here imports torch before tensors are asked for.
"""

from __future__ import annotations

from ._pretrained import from_packed
from ._read import Weights, open_shards, open_weights, weights_file
from ._safetensors import Header, Place, write_header
from ._write import pack_file, packed_name, unpack_file
from .index import (
    FORMAT_VERSION,
    PackedFile,
    PackedTensor,
    is_packed,
    read_index,
    write_index,
)

__all__ = [
    "FORMAT_VERSION",
    "Header",
    "PackedFile",
    "PackedTensor",
    "Place",
    "Weights",
    "from_packed",
    "is_packed",
    "open_shards",
    "open_weights",
    "pack_file",
    "packed_name",
    "read_index",
    "unpack_file",
    "weights_file",
    "write_header",
    "write_index",
]
