"""Locating the blocks and prunable weights of any model of timm."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from atp_core.errors import ModelError
from atp_core.loading import first_line
from atp_core.locating import outside
from atp_core.records import Block, Chain

from ._blocks import find_blocks
from ._trace import Trace, trace
from ._weights import Scan, output_layers

__all__ = ["locate"]


def locate(model: nn.Module) -> list[Chain]:
    """The chain "vision": the blocks of `model` in execution order, and their prunable weights.

    Works on the meta device and changes nothing: a copy without weights is run once on the meta
    device, which shows the order of blocks and which weights are multiplied as they are stored.

    Raises:
        ModelError: the model cannot be run on the meta device, or has no blocks with prunable
            weights.
    """
    kind = type(model).__name__
    try:
        seen = trace(model)
    except Exception as error:
        reason = first_line(error)
        raise ModelError(
            f"the order of the blocks of {kind} cannot be found: its forward pass fails on the "
            f"meta device ({reason})"
        ) from error
    found = find_blocks(model)
    scan = Scan(model, seen)
    blocks: list[Block] = []
    inside: set[int] = set()
    dense: dict[str, str] = {}
    # What reads the pixels makes the input of the chain.
    every = (use for uses in seen.uses.values() for use in uses)
    stem = {name for use in every if use.pixels for name in use.inside}
    for name, module in sorted(found, key=lambda pair: seen.order.get(pair[0], len(seen.order))):
        calls = seen.calls.get(name, 0)
        inside.add(id(module))
        if calls != 1:
            often = f"its forward runs {calls} times" if calls else "its forward is never run"
            dense.setdefault(_general(name), f"{often}, where a block's must run once")
            continue
        if name in stem:
            dense.setdefault(_general(name), "stem")
            continue
        held = scan.block(name, module)
        for path, reason in held.dense.items():
            dense.setdefault(_general(path), reason)
        if held.weights:
            blocks.append(Block(name, module, held.weights))
    if not blocks:
        reasons = sorted(set(dense.values()))
        raise ModelError(
            f"no blocks with prunable weights were found in {kind}"
            + (f" ({'; '.join(reasons)})" if reasons else "")
            + "; a plugin that implements atp_locate for this architecture can handle it "
            "(`atp plugins new`)"
        )
    rest = dict(_outside(inside, model, seen, blocks))
    return [Chain("vision", blocks, {**rest, **dense})]


def _general(name: str) -> str:
    """``stages.0.blocks.2.conv_dw.weight`` → ``stages.*.blocks.*.conv_dw.weight``."""
    return re.sub(r"(?<=[.])\d+(?=[.]|$)", "*", name)


def _outside(
    inside: set[int], model: nn.Module, seen: Trace, blocks: list[Block]
) -> Iterator[tuple[str, str]]:
    """Largest parts of the model that hold no block, and why each stays dense."""
    for path, part in outside("", model, inside):
        if not isinstance(part, nn.Parameter):
            yield _general(path), _reason(path, part, model, seen, blocks)
        elif part.dim() > 1:
            yield _general(path), _bare_reason(path.rpartition(".")[2])


def _bare_reason(parameter: str) -> str:
    return "position embedding" if "pos" in parameter else "embedding"


def _reason(
    path: str, module: nn.Module, model: nn.Module, seen: Trace, blocks: list[Block]
) -> str:
    if all(parameter.dim() < 2 for parameter in module.parameters()):
        return "normalization"
    if "pos" in path.rpartition(".")[2]:
        return "position embedding"
    places = [
        seen.order[f"{path}.{name}" if name else path]
        for name, _ in module.named_modules()
        if (f"{path}.{name}" if name else path) in seen.order
    ]
    if any(part in output_layers(model) for part in module.modules()):
        return "output layer"
    if not places:
        return "its forward is never run"
    if max(places) < seen.order[blocks[0].name]:
        return "stem"
    if min(places) > seen.order[blocks[-1].name]:
        return "head"
    return "between the blocks"
