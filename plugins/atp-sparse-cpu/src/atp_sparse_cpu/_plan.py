"""Which way a layer takes for how many tokens."""

from __future__ import annotations

from enum import IntEnum

import torch

from ._library import library

__all__ = ["BUCKETS", "Path", "Plan", "bucket_of", "kernels_for", "name_of_bucket", "rule"]


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


BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Largest number of tokens of each bucket; the last one takes all above too."""

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


def rule(stored: torch.dtype) -> Plan:
    """A plan without measuring: kernels for few tokens; for many too where they are float32's."""
    ways = kernels_for(stored)
    most = {torch.float32: BUCKETS[-1], torch.bfloat16: 64}.get(stored, 16)
    return tuple(int(ways[0] if ways and top <= most else Path.UNPACK) for top in BUCKETS)
