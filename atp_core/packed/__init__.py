"""Packed checkpoints: pruned weights as a bitmask and their nonzeros, in safetensors files.

The layout is specified in docs/packed-format.md. Packing and unpacking go tensor by tensor, so
memory grows with the largest tensor, not with the model.
"""

from __future__ import annotations

from ._format import INDEX_NAME, VERSION, is_packed
from ._pack import pack_files
from ._unpack import unpack_files

__all__ = ["INDEX_NAME", "VERSION", "is_packed", "pack_files", "unpack_files"]
