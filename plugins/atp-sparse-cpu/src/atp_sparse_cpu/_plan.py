"""Which way a layer takes for how many tokens."""

from __future__ import annotations

from enum import IntEnum

import torch

from ._library import library

__all__ = [
    "BUCKETS",
    "Path",
    "Plan",
    "bucket_of",
    "kernels_for",
    "name_of_bucket",
    "rule",
    "ways_for",
]


class Path(IntEnum):
    """Ways to compute a layer; the first five are kernels of sparse.h."""

    BF16_DOT = 0
    BF16_FMA = 1
    FP16 = 2
    FP32 = 3
    INT8 = 4
    UNPACK = 5
    """Unpack some rows at a time, then `F.linear`."""
    DENSE = 6
    """`F.linear` with the dense weight, kept beside the packed one."""
    SPMM = 7
    """The kernel for many tokens that skips zeros."""
    AMX = 8
    """The kernel that multiplies tiles of 16 rows and 16 tokens, for bfloat16."""


BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Largest number of tokens of each bucket; the last one takes all above too."""

_MANY = 16
_TILED = 2
"""Tokens from which tiles of 16 are worth trying."""

Plan = tuple[int, ...]
"""A `Path` a bucket."""


def bucket_of(tokens: int) -> int:
    """Index in `BUCKETS` for a number of tokens."""
    return min((max(tokens, 1) - 1).bit_length(), len(BUCKETS) - 1)


def name_of_bucket(index: int) -> str:
    """E.g. "1", "5-8", "129-"."""
    if index == len(BUCKETS) - 1:
        return f"{BUCKETS[-2] + 1}-"
    low = BUCKETS[index - 1] + 1 if index else 1
    return str(BUCKETS[index]) if low == BUCKETS[index] else f"{low}-{BUCKETS[index]}"


def kernels_for(stored: torch.dtype) -> list[Path]:
    """Kernels that this machine has for values of a type, the likely best first."""
    found = library()
    if found is None:
        return []
    if stored == torch.bfloat16:
        return [Path.BF16_DOT, Path.BF16_FMA] if found.features & 2 else [Path.BF16_FMA]
    if stored == torch.float16:
        return [Path.FP16]
    if stored == torch.int8:
        return [Path.INT8] if found.features & 4 else []
    return [Path.FP32]


def ways_for(stored: torch.dtype, tokens: int) -> list[Path]:
    """Ways on packed weights that are worth trying for a number of tokens."""
    ways = kernels_for(stored)
    if tokens >= _TILED and _has_tiles(stored):
        ways.append(Path.AMX)
    if tokens >= _MANY or not ways:
        ways.append(Path.UNPACK)
        if stored != torch.int8 and library() is not None:
            ways.append(Path.SPMM)
    return ways


def rule(stored: torch.dtype) -> Plan:
    """A plan without measuring.

    For few tokens the kernel; for many what skips zeros, or a dense product of unpacked rows where
    the processor multiplies this type faster than float32. With tiles those, but for one token.
    """
    if _has_tiles(stored):
        # Processors with tiles are slow at what BF16_DOT is made of.
        return (int(Path.BF16_FMA), *(int(Path.AMX) for _ in BUCKETS[1:]))
    few = kernels_for(stored)
    most = 64 if stored == torch.bfloat16 else _MANY
    many = Path.SPMM if stored in (torch.float32, torch.float16) else Path.UNPACK
    return tuple(int(few[0] if few and top <= most else many) for top in BUCKETS)


def _has_tiles(stored: torch.dtype) -> bool:
    found = library()
    return found is not None and stored == torch.bfloat16 and bool(found.features & 8)
