"""Finding the layers of a model: which lists they stand in, and in which order they run."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

__all__ = ["layers_of", "roots"]


def roots(model: nn.Module) -> dict[str, str]:
    """Chain name → qualified name of the part of `model` that holds its layers."""
    names = {id(module): name for name, module in model.named_modules()}

    def ask(method: str) -> str | None:
        found = getattr(model, method)() if hasattr(model, method) else None
        return names.get(id(found)) if isinstance(found, nn.Module) else None

    decoder = ask("get_decoder") or ""
    if next(layers_of(model, decoder), None) is None:
        decoder = ""  # some models call their output layer a decoder
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        encoder = ask("get_encoder")
        # Either is the whole model where transformers does not know better.
        if encoder and encoder != decoder:
            return {"encoder": encoder, "decoder": decoder}
    return {"decoder": decoder}


def layers_of(model: nn.Module, root: str) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every layer under `root`, in the order in which they run, once each."""
    seen: set[int] = set()
    for group in _grouped(_lists(root, model.get_submodule(root))):
        # Lists of equal length side by side are halves of the same layers: they run in turn.
        for row in range(max(len(layers) for _, layers in group)):
            for name, layers in group:
                if row < len(layers) and id(layers[row]) not in seen:
                    seen.add(id(layers[row]))
                    yield f"{name}.{row}", layers[row]


def _lists(name: str, module: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """The outermost lists of composite modules under `module`, leaving other models out."""
    if isinstance(module, nn.ModuleList):
        if any(_has_matrix(layer) and list(layer.children()) for layer in module):
            yield name, module
            return
        if all(not list(layer.children()) for layer in module):
            return
    for child, inner in module.named_children():
        if not _is_another_model(inner):
            yield from _lists(f"{name}.{child}" if name else child, inner)


def _grouped(
    lists: Iterator[tuple[str, nn.ModuleList]],
) -> Iterator[list[tuple[str, nn.ModuleList]]]:
    group: list[tuple[str, nn.ModuleList]] = []
    for name, layers in lists:
        parent = name.rpartition(".")[0]
        if group and (group[0][0].rpartition(".")[0], len(group[0][1])) != (parent, len(layers)):
            yield _in_turn(group)
            group = []
        group.append((name, layers))
    if group:
        yield _in_turn(group)


def _in_turn(group: list[tuple[str, nn.ModuleList]]) -> list[tuple[str, nn.ModuleList]]:
    """Order of the lists within one round.

    The byte-latent transformer keeps cross-attention in a list of its own: its encoder runs it
    after each layer, in order of registration, its decoder before each.
    """
    if any("decoder" in name.rpartition(".")[0] for name, _ in group):
        return sorted(group, key=lambda pair: "cross" not in pair[0])
    return group


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.dim() >= 2 for parameter in module.parameters())


def _is_another_model(module: nn.Module) -> bool:
    """Whether a part of a text model is a model of its own: another modality, or a helper."""
    modalities = getattr(module, "input_modalities", "text")
    if "text" not in ((modalities,) if isinstance(modalities, str) else modalities):
        return True
    # A model with an output layer of its own, such as the byte-latent transformer's patcher,
    # prepares the input: it is no step of this one.
    return isinstance(getattr(module, "lm_head", None), nn.Module)
