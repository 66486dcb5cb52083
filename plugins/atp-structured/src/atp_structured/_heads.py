"""Attention heads as groups.

How heads lie in a projection follows from the architecture and not from the operations alone: a
fused projection holds queries, keys and values one after another, and with grouped queries a head
of keys and values serves several of queries. So it is told here for each form, and what comes of
it is tried out on the block before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ._groups import Group, Member
from ._layers import is_conv1d

__all__ = ["head_groups", "stubborn"]

_MIXED = "nn.MultiheadAttention has one width for all: its heads stay, only channels go"


def head_groups(block: nn.Module) -> Iterator[Group]:
    """The heads of every attention inside `block` whose form is known."""
    for path, module in block.named_modules():
        for form in (_separate, _fused, _conv1d):
            found = form(path, module)
            if found is not None:
                yield found
                break


def stubborn(block: nn.Module) -> list[str]:
    """Why heads of a block cannot go, for the user."""
    return [_MIXED] if any(isinstance(m, nn.MultiheadAttention) for m in block.modules()) else []


def _separate(path: str, module: Any) -> Group | None:
    """``q_proj``, ``k_proj``, ``v_proj`` and ``o_proj`` or ``out_proj``: Llama and its like, CLIP.

    A unit is a head of keys and values with all query heads it serves.
    """
    names = ("q_proj", "k_proj", "v_proj")
    if not all(isinstance(getattr(module, name, None), nn.Linear) for name in names):
        return None
    last = next(
        (n for n in ("o_proj", "out_proj") if isinstance(getattr(module, n, None), nn.Linear)), None
    )
    width = getattr(module, "head_dim", None)
    if last is None or not isinstance(width, int):
        return None
    queries, keys = module.q_proj.out_features, module.k_proj.out_features
    if queries % width or keys % width or module.v_proj.out_features != keys:
        return None
    heads, units = queries // width, keys // width
    if units == 0 or heads % units or getattr(module, last).in_features != queries:
        return None
    served = heads // units
    wide, narrow = _rows(units, served * width), _rows(units, width)
    members = (
        Member(_join(path, "q_proj"), "out", wide),
        Member(_join(path, "k_proj"), "out", narrow),
        Member(_join(path, "v_proj"), "out", narrow),
        Member(_join(path, last), "in", wide),
    )
    falls = {
        name: by
        for name, by, is_now in (
            ("num_heads", served, heads),
            ("num_key_value_heads", 1, units),
        )
        if getattr(module, name, None) == is_now
    }
    return Group("heads", path, units, members, served, _told(path, falls))


def _fused(path: str, module: Any) -> Group | None:
    """``qkv`` and ``proj``: timm. Queries, keys and values follow one another in ``qkv``."""
    first, last = getattr(module, "qkv", None), getattr(module, "proj", None)
    heads, width = getattr(module, "num_heads", None), getattr(module, "head_dim", None)
    if not isinstance(first, nn.Linear) or not isinstance(last, nn.Linear):
        return None
    if not isinstance(heads, int) or not isinstance(width, int):
        return None
    falls = {"num_heads": 1, "attn_dim": width}
    return _thirds(path, module, heads, width, ("qkv", first.out_features), ("proj", last), falls)


def _conv1d(path: str, module: Any) -> Group | None:
    """``c_attn`` and ``c_proj``: GPT-2."""
    first, last = getattr(module, "c_attn", None), getattr(module, "c_proj", None)
    heads, width = getattr(module, "num_heads", None), getattr(module, "head_dim", None)
    if first is None or last is None or not is_conv1d(first) or not is_conv1d(last):
        return None
    if not isinstance(heads, int) or not isinstance(width, int):
        return None
    falls = {"num_heads": 1, "split_size": width}
    return _thirds(path, module, heads, width, ("c_attn", first.nf), ("c_proj", last), falls)


def _thirds(
    path: str,
    module: Any,
    heads: int,
    width: int,
    first: tuple[str, int],
    last: tuple[str, Any],
    falls: dict[str, int],
) -> Group | None:
    total = heads * width
    entering = getattr(last[1], "in_features", None) or getattr(last[1], "nx", None)
    if first[1] != 3 * total or entering != total:
        return None
    one = _rows(heads, width)
    members = (
        Member(_join(path, first[0]), "out", torch.cat([one, one + total, one + 2 * total], dim=1)),
        Member(_join(path, last[0]), "in", one),
    )
    known = {name: by for name, by in falls.items() if isinstance(getattr(module, name, None), int)}
    return Group("heads", path, heads, members, 1, _told(path, known))


def _rows(units: int, width: int) -> torch.Tensor:
    """Consecutive channels, shape (units, width)."""
    return torch.arange(units * width).view(units, width)


def _told(path: str, falls: dict[str, int]) -> dict[tuple[str, str], int]:
    return {(path, name): by for name, by in falls.items()}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
