"""Measured ratios of ways, kept between runs in a file of the cache."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping

import torch

from . import _cache
from ._library import cpu_name, library

__all__ = ["Ratios", "recall", "remember"]

Ratios = list[dict[str, float]]
"""For each bucket: name of a way → time of the dense layer over its own."""

_lock = threading.Lock()
_known: dict[str, Ratios] = {}
_read = False


def recall(key: str, buckets: int) -> Ratios | None:
    """What was measured for a key on this machine with these kernels, or None."""
    global _read
    with _lock:
        if not _read:
            _known.update(_load(buckets))
            _read = True
        return _known.get(key)


def remember(key: str, ratios: Ratios) -> None:
    """Keep it; without a place to write to, for this process only."""
    with _lock:
        _known[key] = ratios
        try:
            # What other processes have found meanwhile is kept.
            merged = {**_load(len(ratios)), **_known}
            _cache.write(_cache.folder() / _name(), json.dumps(merged).encode())
        except OSError:
            pass


def _name() -> str:
    found = library()
    about = [cpu_name(), found.key if found else "", torch.__version__]
    return f"measured-{hashlib.sha256(' '.join(about).encode()).hexdigest()[:24]}.json"


def _load(buckets: int) -> dict[str, Ratios]:
    """The file's content; what is not as it should be is measured again."""
    try:
        found = json.loads((_cache.folder() / _name()).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if _is_sound(value, buckets)}


def _is_sound(value: object, buckets: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == buckets
        and all(
            isinstance(ways, Mapping)
            and ways
            and all(isinstance(ratio, float) and ratio > 0 for ratio in ways.values())
            for ways in value
        )
    )
