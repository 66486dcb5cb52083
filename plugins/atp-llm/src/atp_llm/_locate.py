"""Locating the blocks and prunable weights of any language model of transformers.

No table of architectures: blocks are the elements of the outermost lists of equal layers on the
way from the embeddings to the output, and their weights are found by how they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from atp_core.errors import ModelError
from atp_core.records import Block, Chain

from ._locate_weights import Scan

__all__ = ["locate"]


def locate(model: nn.Module) -> list[Chain]:
    """Chains of `model`, their blocks in execution order, and the prunable weights of each.

    Works on the meta device and changes nothing. Encoder-decoder models have the chains
    "encoder" and "decoder", others "decoder" alone.

    Raises:
        ModelError: no list of layers with prunable weights was found.
    """
    scan = Scan(model, _expert_counts(model))
    blocks: list[Block] = []
    dense: dict[str, str] = {}
    for name, layers in _lists(model):
        for i, layer in enumerate(layers):
            found = scan.block(f"{name}.{i}", layer)
            dense.update(found.dense)
            if found.weights:
                blocks.append(Block(f"{name}.{i}", layer, found.weights))
    if not blocks:
        raise ModelError(f"no decoder layers found in {type(model).__name__}")
    return [Chain("decoder", blocks, dense)]


def _expert_counts(model: nn.Module) -> frozenset[int]:
    config = getattr(model, "config", None)
    values = config.to_dict() if config is not None else {}
    return frozenset(
        v for k, v in values.items() if "expert" in k and isinstance(v, int) and v > 1
    )


def _lists(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    taken: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{t}.") for t in taken):
            continue
        if isinstance(module, nn.ModuleList) and not any(
            isinstance(layer, nn.Linear) for layer in module
        ):
            taken.append(name)
            yield name, module
