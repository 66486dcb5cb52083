"""Cutting data into disjoint splits.

Examples are put in the order of a hash of their content and that order is cut. So splits are
disjoint by content, and depend neither on a seed nor on the order of files.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

__all__ = ["SHARES", "digest_of", "partition", "same_source", "take"]

T = TypeVar("T")

SHARES: Final[Mapping[bool, Mapping[str, float]]] = {
    False: {"calibration": 0.65, "search": 0.35},
    True: {"calibration": 0.5, "search": 0.2, "report": 0.3},
}
"""Split → share of the data, by whether the same data serves the report too."""


def digest_of(content: bytes) -> str:
    """Identity of an example: a hash of its content."""
    return hashlib.sha256(content).hexdigest()[:24]


def partition(
    examples: Sequence[T],
    shares: Mapping[str, float],
    identity: Callable[[T], str],
    size: Callable[[T], int] = lambda example: 1,
) -> dict[str, list[T]]:
    """Cut examples into parts, by the order of their identities.

    Args:
        examples: in any order; of equal identities only the first counts.
        shares: part → share of the whole size; they add up to 1.
        identity: a hash of an example's content.
        size: what is shared out, e.g. the characters of a document.

    Returns:
        Part → its examples, in the order given. A part may be empty where examples are few.
    """
    unique: dict[str, T] = {}
    for example in examples:
        unique.setdefault(identity(example), example)
    total = sum(map(size, unique.values()))
    names = list(shares)
    bounds = [sum(list(shares.values())[: i + 1]) * total for i in range(len(names))]
    part_of: dict[str, str] = {}
    seen = 0.0
    for key in sorted(unique):
        # The part that holds an example's middle gets it.
        middle = seen + size(unique[key]) / 2
        seen += size(unique[key])
        part_of[key] = next(
            (name for name, bound in zip(names, bounds, strict=True) if middle < bound), names[-1]
        )
    return {name: [one for key, one in unique.items() if part_of[key] == name] for name in names}


def take(
    examples: Sequence[T],
    count: int | None,
    *,
    seed: int,
    group: Callable[[T], Hashable] | None = None,
) -> list[T]:
    """At most `count` examples, drawn without replacement; None is all, as they stand.

    Args:
        examples: to draw from, in a fixed order.
        count: how many.
        seed: of the draw. Smaller draws are prefixes of larger ones.
        group: draw as evenly as possible from these groups (the classes of images).
    """
    if count is None:
        return list(examples)
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)
    if group is not None:
        rank: dict[Hashable, int] = {}
        order = []
        for example in shuffled:
            key = group(example)
            rank[key] = rank.get(key, 0) + 1
            order.append(rank[key])
        # The first of every group, then the second of every group, …
        shuffled = [shuffled[i] for i in sorted(range(len(shuffled)), key=lambda i: order[i])]
    return shuffled[:count]


def same_source(one: str, other: str) -> bool:
    """Whether two data arguments name the same thing."""
    if one == other:
        return True
    try:
        return Path(one).expanduser().samefile(Path(other).expanduser())
    except (OSError, RuntimeError, ValueError):
        return False
