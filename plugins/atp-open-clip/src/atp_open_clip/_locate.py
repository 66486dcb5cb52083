"""Locating the blocks and prunable weights of both towers of a CLIP model.

No table of architectures: a tower's blocks are the layers it repeats, and their weights are found
by how they are stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from atp_core.errors import ModelError
from atp_core.locating import outside
from atp_core.records import Block, Chain

from ._locate_blocks import blocks_of
from ._locate_weights import Scan

__all__ = ["locate"]

# Chain → where its tower may be. What lies in none of them belongs to the text: open_clip's
# oldest class has the parts of its text tower at the top.
_TOWERS = {
    "vision": ("visual", "vision_model"),
    "text": ("text", "text_model", "transformer"),
    "multimodal": ("text_decoder",),
}
_OF_VISION = frozenset({"visual", "vision_model", "visual_projection"})


def locate(model: nn.Module) -> list[Chain]:
    """The chains "vision" and "text", in the order in which the forward runs them.

    CoCa's captioning decoder is the chain "multimodal". It is pruned only where it is asked for:
    nothing that is measured here passes through it. Works on the meta device and changes nothing.

    Raises:
        ModelError: a tower is missing, or has no blocks with prunable weights.
    """
    scan = Scan()
    chains: list[Chain] = []
    for name, places in _TOWERS.items():
        root = next((place for place in places if _has(model, place)), None)
        if root is None:
            if name == "multimodal":
                continue
            raise ModelError(f"{type(model).__name__} has no {name} tower to prune")
        blocks: list[Block] = []
        within: dict[str, str] = {}
        for block_name, module in blocks_of(root, model.get_submodule(root)):
            found = scan.block(block_name, module)
            for path, reason in found.dense.items():
                within.setdefault(re.sub(r"\.\d+(?=\.|$)", ".*", path), reason)
            if found.weights:
                blocks.append(Block(block_name, module, found.weights))
        if not blocks:
            raise ModelError(
                f"no blocks with prunable weights were found in the {name} tower of "
                f"{type(model).__name__} ({type(model.get_submodule(root)).__name__}); a plugin "
                "that implements atp_locate for this architecture can handle it (`atp plugins new`)"
            )
        rest = dict(_outside(model, name, {id(block.module) for block in blocks}))
        chains.append(Chain(name, blocks, {**rest, **within}, default=name != "multimodal"))
    return chains


def _has(model: nn.Module, name: str) -> bool:
    return isinstance(getattr(model, name, None), nn.Module)


def _outside(model: nn.Module, chain: str, blocks: set[int]) -> Iterator[tuple[str, str]]:
    """Largest parts of a chain's tower that hold no block, and why each stays dense."""
    others = _OF_VISION | set(_TOWERS["multimodal"])
    for parameter, value in model.named_parameters(recurse=False):
        if chain == "text":
            yield parameter, _reason(parameter, value)
    for name, child in model.named_children():
        owner = "vision" if name in _OF_VISION else "multimodal" if name in others else "text"
        if owner != chain or id(child) in blocks or next(child.parameters(), None) is None:
            continue
        for path, part in outside(name, child, blocks):
            yield path, _reason(path, part)


# Told by name, the first that fits.
_REASONS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^logit_(scale|bias)$"), "scale of the logits"),
    (re.compile(r"patch_embed|^conv1$|^stem|^(conv|bn)\d$"), "patch embedding or stem"),
    (re.compile(r"embed|pos_emb|^(cls|class|reg|dist)_|token|^shared$"), "embedding"),
    (re.compile(r"pool|^attn$"), "pooling"),
    (re.compile(r"proj"), "projection into the space of both towers"),
    (re.compile(r"downsample|transition|reduction"), "between stages"),
    (re.compile(r"norm|^ln_|layrnorm"), "normalization"),
    (re.compile(r"^(head|fc|classifier)"), "head: pooling and projection"),
)


def _reason(name: str, module: nn.Module | nn.Parameter) -> str:
    last = name.rsplit(".", 1)[-1].lower()
    if isinstance(module, nn.Embedding):
        return "embedding"
    for pattern, reason in _REASONS:
        if pattern.search(last):
            return reason
    return "outside the blocks"
