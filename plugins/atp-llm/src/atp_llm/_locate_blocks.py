"""Finding the layers of a model: which lists they stand in, and in which order they run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

__all__ = ["holds_layers", "layers_of", "roots"]

_Layers = tuple[str, list[tuple[int, nn.Module]]]
"""Qualified name of a list, and its layers with their places in it."""

# Parts of a text model that text alone does not pass: other modalities, which transformers' own
# models also declare, and heads that predict further tokens in training or drafting only.
_ASIDE = re.compile(r"^(vision|visual|image|audio|speech|mtp|medusa|nextn)")


def roots(model: nn.Module) -> dict[str, str]:
    """Chain name → qualified name of the part of `model` that holds its layers."""
    names = {id(module): name for name, module in model.named_modules()}

    def ask(method: str) -> str:
        known: Any = getattr(model, method, None)
        return names.get(id(known()), "") if known is not None else ""

    decoder = ask("get_decoder")
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        encoder = ask("get_encoder")
        # Either is the whole model where transformers does not know better.
        if encoder and encoder != decoder:
            return {"encoder": encoder, "decoder": decoder}
    # Some models call their output layer a decoder, and some wrap a language model under a name
    # that transformers does not look for.
    wrapped = (name for name, module in model.named_modules() if name and _has_head(module))
    for root in (decoder, "", *wrapped):
        if next(layers_of(model, root), None) is not None:
            return {"decoder": root}
    return {"decoder": ""}


def layers_of(model: nn.Module, root: str) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every layer under `root`, in the order in which they run, once each."""
    seen: set[int] = set()
    for group in _grouped(_lists(root, model.get_submodule(root))):
        # Lists of equal length side by side are halves of the same layers: they run in turn.
        for row in range(max(len(layers) for _, layers in group)):
            for name, layers in group:
                place, layer = layers[row]
                if id(layer) not in seen:
                    seen.add(id(layer))
                    yield f"{name}.{place}" if name else str(place), layer


def holds_layers(module: nn.Module) -> bool:
    """Whether a module has a list of layers somewhere: it is a model of its own."""
    return any(next(iter(_layers(part)), None) is not None for part in module.modules())


def _lists(name: str, module: nn.Module) -> Iterator[_Layers]:
    """The outermost lists of layers under `module`, leaving other models out."""
    layers = list(_layers(module))
    if layers:
        yield name, layers
        return
    for child, inner in module.named_children():
        if not _ASIDE.match(child) and not _is_another_model(inner):
            yield from _lists(f"{name}.{child}" if name else child, inner)


def _layers(module: nn.Module) -> Iterable[tuple[int, nn.Module]]:
    """The layers that a module lists, with their places; none if it is no list of layers."""
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return
    composite = [(i, layer) for i, layer in enumerate(module) if _is_composite(layer)]
    if isinstance(module, nn.ModuleList):
        yield from composite
        return
    # A sequence may begin with the embedding and end with the output layer.
    counts = Counter(type(layer) for _, layer in composite)
    yield from ((i, layer) for i, layer in composite if counts[type(layer)] > 1)


def _grouped(lists: Iterable[_Layers]) -> Iterator[list[_Layers]]:
    """Lists that stand side by side and are equally long, together."""
    group: list[_Layers] = []
    for name, layers in lists:
        if group and (_parent(group[0][0]), len(group[0][1])) != (_parent(name), len(layers)):
            yield _in_turn(group)
            group = []
        group.append((name, layers))
    if group:
        yield _in_turn(group)


def _in_turn(group: list[_Layers]) -> list[_Layers]:
    """Order of the lists within one round.

    The byte-latent transformer keeps cross-attention in a list of its own: its encoder runs it
    after each layer, as it is registered, its decoder before each.
    """
    if any("decoder" in _parent(name) for name, _ in group):
        return sorted(group, key=lambda pair: "cross" not in pair[0])
    return group


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _is_composite(module: nn.Module) -> bool:
    """Whether a module has parts and matrices, as a layer has."""
    return next(module.children(), None) is not None and any(
        parameter.dim() >= 2 for parameter in module.parameters()
    )


def _is_another_model(module: nn.Module) -> bool:
    """Whether a part of a text model is a model of its own: another modality, or a helper."""
    modalities = getattr(module, "input_modalities", "text")
    if "text" not in ((modalities,) if isinstance(modalities, str) else modalities):
        return True
    # A model with an output layer of its own, such as the byte-latent transformer's patcher,
    # prepares the input: it is no step of this one.
    return _has_head(module)


def _has_head(module: nn.Module) -> bool:
    return isinstance(getattr(module, "lm_head", None), nn.Module)
