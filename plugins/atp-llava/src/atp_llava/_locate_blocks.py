"""Finding a model's vision tower, its language model, and the layers of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

__all__ = ["Layer", "layers_of", "parts_of", "unused_layers"]

_VISION: Final = re.compile(
    r"(high_res_)?(vision_(tower|model|encoder)|visual|image_(tower|encoder))"
)
_LANGUAGE: Final = ("language_model", "text_model", "text_decoder")
# Lists that are no steps of a tower: what reads from between its layers, or comes before them.
_ASIDE: Final = re.compile(
    r"merger|projector|projection|adapter|resampler|connector|embed|convs$|pooler|mtp|neck|cross"
)
_FEATURE_LAYERS: Final = ("vision_feature_layer", "vision_feature_layers")


@dataclass(frozen=True)
class Layer:
    """One element of a list of layers.

    Attributes:
        name: qualified name of the module.
        module: the layer.
    """

    name: str
    module: nn.Module

    @property
    def parent(self) -> str:
        """Qualified name of the list."""
        return self.name.rpartition(".")[0]


def parts_of(model: nn.Module) -> dict[str, list[str]]:
    """"vision" and "language" → qualified names of the modules that hold their layers.

    A model in which no part is named as a language model is taken to be one around its vision
    tower, or an encoder of images with a decoder of text.
    """
    vision = _named(model, lambda name: _VISION.fullmatch(name) is not None)
    vision.sort(key=lambda name: "high_res" in name)  # it runs after the other
    # A tower of videos beside the one of images does not run on images.
    language = next((found for key in _LANGUAGE if (found := _named(model, key.__eq__))), [])
    language = [name for name in language if not any(name.startswith(f"{v}.") for v in vision)]
    vision = [name for name in vision if not any(name.startswith(f"{t}.") for t in language)]
    if not language and not vision:
        encoder, decoder = _named(model, "encoder".__eq__), _named(model, "decoder".__eq__)
        if encoder and decoder:
            vision, language = encoder[:1], decoder[:1]
    return {"vision": vision, "language": language[:1] or [""]}


def _named(model: nn.Module, wanted: Any) -> list[str]:
    """Outermost modules whose own name is wanted, by qualified name."""
    found: list[str] = []
    for name, _ in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if name and not inside and wanted(name.rpartition(".")[2]):
            found.append(name)
    return found


def layers_of(model: nn.Module, root: str) -> Iterator[Layer]:
    """Every layer under `root`, in the order in which they run, once each."""
    seen: set[int] = set()
    for layer in _layers(root, model.get_submodule(root), top=not root):
        if id(layer.module) not in seen:
            seen.add(id(layer.module))
            yield layer


def _layers(name: str, module: nn.Module, *, top: bool = False) -> Iterator[Layer]:
    """The elements of the outermost lists of layers; lists in a list are opened."""
    listed = list(_elements(module))
    if listed:
        for place, element in listed:
            path = f"{name}.{place}" if name else str(place)
            inner = list(_layers(path, element)) if _is_list(element) else []
            yield from inner or [Layer(path, element)]
        return
    for child, inner_module in module.named_children():
        if _ASIDE.search(child) or (top and _VISION.fullmatch(child)):
            continue
        yield from _layers(f"{name}.{child}" if name else child, inner_module, top=top)


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential)


def _elements(module: nn.Module) -> list[tuple[int, nn.Module]]:
    """The layers that a module lists, with their places; none if it is no list of layers."""
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return []
    found = [(place, element) for place, element in enumerate(module) if _is_composite(element)]
    # A sequence of few unlike parts is a layer itself, such as an MLP.
    if isinstance(module, nn.Sequential) and len({type(element) for _, element in found}) != 1:
        return [pair for pair in found if _is_list(pair[1])]
    return found


def _is_composite(module: nn.Module) -> bool:
    """Whether a module has parts and matrices, as a layer has."""
    return next(module.children(), None) is not None and any(
        parameter.dim() >= 2 for parameter in module.parameters()
    )


def unused_layers(model: nn.Module, layers: Sequence[Layer]) -> Mapping[str, str]:
    """Layers of the vision tower whose output the model never reads, by name, with the reason.

    A config with ``vision_feature_layer`` (or a list of such layers) says which hidden states
    are read. Hidden state 0 is the embedding, so layer i writes number i + 1.
    """
    read = _feature_layers(getattr(model, "config", None))
    if not read or len({layer.parent for layer in layers}) != 1:
        return {}
    count = len(layers)
    used = max(index if index >= 0 else count + 1 + index for index in read)
    said = read[0] if len(read) == 1 else list(read)
    return {
        layer.name: f"runs, but its output is not read: the model takes hidden state {said}"
        for layer in layers[max(used, 0) :]
    }


def _feature_layers(config: Any) -> tuple[int, ...]:
    for holder in (config, *(getattr(config, n, None) for n in ("adapter_config",))):
        for name in _FEATURE_LAYERS:
            found = getattr(holder, name, None)
            if isinstance(found, int) and not isinstance(found, bool):
                return (found,)
            if isinstance(found, list | tuple) and found:
                return tuple(int(index) for index in found)
    return ()
