"""One forward pass on the meta device: what runs, in which order, and what multiplies what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from atp_core.loading import meta_copy

from ._input import input_size

__all__ = ["Trace", "Use", "trace"]

aten = torch.ops.aten

_PRODUCTS = frozenset([aten.convolution, aten.mm, aten.bmm, aten.addmm, aten.baddbmm])


@dataclass(frozen=True)
class Use:
    """One product with the memory of a parameter.

    Attributes:
        shape: of the operand that lies in the parameter's memory: (out, in) of a matrix, also
            where it is multiplied from the other side; the kernel's shape of a convolution.
        strides: of the operand, in elements.
        offset: where it starts in the parameter's storage, in elements.
        groups: of a convolution; 0 where it is a matrix product.
        transposed: a transposed convolution.
        inside: names of the modules whose forward was running.
        image: what is multiplied depends on the image.
        pixels: what is multiplied is the image itself: no product came before.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    groups: int
    transposed: bool
    inside: frozenset[str]
    image: bool
    pixels: bool


@dataclass
class Trace:
    """What one forward pass showed.

    Attributes:
        order: module → its place in the order in which modules were first entered.
        calls: module → how often its forward ran.
        uses: parameter → the products with its memory, in order.
        read: parameters that anything read.
    """

    order: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    uses: dict[str, list[Use]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)


def trace(model: nn.Module) -> Trace:
    """Run a copy of `model` on the meta device and see what it does.

    Raises:
        Exception: whatever the model raises where it cannot run without values.
    """
    # Not in inference mode, where composite functions arrive at the recorder in one piece.
    with torch.inference_mode(False), torch.no_grad():
        return _trace(model)


def _trace(model: nn.Module) -> Trace:
    found = Trace()
    running: list[str] = []
    made = meta_copy(model).eval()
    for module in made.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            found.order.setdefault(name, len(found.order))
            found.calls[name] = found.calls.get(name, 0) + 1
            running.append(name)

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        running.pop()

    for name, module in made.named_modules():
        module.register_forward_pre_hook(enter(name))
        module.register_forward_hook(leave)
    image = torch.empty(2, *input_size(model), device="meta", dtype=_dtype(made))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.device("meta"), _Recorder(made, image, running, found):
            made(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return found


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _storage(tensor: torch.Tensor) -> int:
    # Meta tensors have no address, but their storages are objects.
    return int(tensor.untyped_storage()._cdata)


class _Recorder(TorchDispatchMode):
    """Notes products with parameters, and what depends on the image."""

    def __init__(
        self, model: nn.Module, image: torch.Tensor, running: list[str], into: Trace
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {_storage(value): name for name, value in model.named_parameters()}
        self._running = running
        self._into = into
        self._image = {_storage(image)}
        self._pixels = {_storage(image)}
        # Held, so that no other storage takes the place of one of these.
        self._held: list[Any] = [image]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Note one operation, then run it."""
        kwargs = kwargs or {}
        tensors = list(_tensors([*args, *kwargs.values()]))
        for tensor in tensors:
            name = self._names.get(_storage(tensor))
            if name is not None:
                self._into.read.add(name)
        packet = func.overloadpacket
        if packet is aten.convolution:
            rows, kernel, transposed, groups = args[0], args[1], args[6], args[8]
            self._note(kernel, rows, groups=groups, transposed=transposed)
        elif packet in (aten.mm, aten.bmm):
            self._product(args[0], args[1])
        elif packet in (aten.addmm, aten.baddbmm):
            self._product(args[1], args[2])
        result = func(*args, **kwargs)
        read = {_storage(tensor) for tensor in tensors}
        for tensor in _tensors([result]):
            made = _storage(tensor)
            if read & self._image:
                self._image.add(made)
                self._held.append(tensor)
            if read & self._pixels and packet not in _PRODUCTS:
                self._pixels.add(made)
            elif made not in read:
                self._pixels.discard(made)
        return result

    def _product(self, left: torch.Tensor, right: torch.Tensor) -> None:
        self._note(right.transpose(-1, -2), left)
        self._note(left, right)

    def _note(
        self,
        operand: torch.Tensor,
        rows: torch.Tensor,
        groups: int = 0,
        transposed: bool = False,
    ) -> None:
        name = self._names.get(_storage(operand))
        if name is None:
            return
        shape, strides = tuple(operand.shape), tuple(operand.stride())
        if not groups and len(shape) == 3 and strides[0] == 0:
            shape, strides = shape[1:], strides[1:]  # one matrix for the whole batch
        use = Use(
            shape=shape,
            strides=strides,
            offset=int(operand.storage_offset()),
            groups=int(groups),
            transposed=bool(transposed),
            inside=frozenset(self._running),
            image=_storage(rows) in self._image,
            pixels=_storage(rows) in self._pixels,
        )
        self._into.uses.setdefault(name, []).append(use)


def _tensors(values: list[Any] | tuple[Any, ...]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
