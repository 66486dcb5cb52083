"""Taps: seeing the true inputs of a weight, whatever module or function consumes it.

A forward hook sees only modules that are called. Fused tensors (`in_proj_weight`, 3-D expert
tensors) and modules whose weight is read by someone else never fire one. So the tap watches the
memory of the weights instead: every matrix product the block runs is inspected, and where an
operand lies in the memory of a located weight, the other operand is that weight's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import ModelError
from ..records import PrunableWeight

__all__ = ["Observer", "WeightTap"]

aten = torch.ops.aten

Observer = Callable[[PrunableWeight, torch.Tensor, tuple[int, ...]], None]
"""Receives a weight, its input rows (tokens, in_features) and the identity of that input.

Equal identities within one tapped forward mean equal rows.
"""


@dataclass(frozen=True)
class _Window:
    """How a convolution slides its kernel over its input.

    Attributes:
        stride: a number a dimension.
        dilation: a number a dimension.
        sides: zeros around the input, as `nn.functional.pad` takes them.
    """

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    sides: tuple[int, ...]


@dataclass(frozen=True)
class _View:
    """Where a weight's 2-D view lies in its storage, in elements."""

    weight: PrunableWeight
    offset: int
    out_features: int
    in_features: int
    out_stride: int
    in_stride: int


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


class WeightTap(TorchDispatchMode):
    """While active, reports the inputs of every product with one of `weights`.

    Args:
        weights: the weights to watch; their parameters must not be replaced meanwhile.
        observer: called once for each weight and product.

    Watches linear, mm, addmm, bmm, baddbmm, matmul, grouped products and convolutions, whose
    input is reported unfolded: a row for each place of the kernel. Composite functions (einsum
    and others) are taken apart into those. A weight that is copied or cast before its product is
    not seen; the engine reports it as a weight without statistics.

    The fused kernel of `nn.MultiheadAttention`, which hides the products it is made of, is
    switched off while the tap is active.
    """

    def __init__(self, weights: Sequence[PrunableWeight], observer: Observer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._observer = observer
        self._views: dict[int, list[_View]] = {}
        for weight in weights:
            matrix = weight.matrix()
            view = _View(
                weight,
                int(matrix.storage_offset()),
                int(matrix.shape[0]),
                int(matrix.shape[1]),
                int(matrix.stride(0)),
                int(matrix.stride(1)),
            )
            self._views.setdefault(_storage(matrix), []).append(view)
        # Inputs are kept alive while the tap is active, so that no other tensor can take over
        # their memory and be mistaken for them.
        self._held: list[torch.Tensor] = []
        self._versions: dict[int, int] = {}
        # One entry for each time it was entered: taking an operation apart enters it again.
        self._fastpath: list[bool] = []

    def __enter__(self) -> Self:
        self._fastpath.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        torch.backends.mha.set_fastpath_enabled(self._fastpath.pop())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Inspect one operation, then run it unchanged."""
        kwargs = kwargs or {}
        packet = func.overloadpacket
        handler = _PRODUCTS.get(packet)
        if handler is not None:
            handler(self, _positional(func, args, kwargs))
        elif self._touches(args):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if func._schema.is_mutable:
            self._note_writes(func, args, kwargs)
        return func(*args, **kwargs)

    def _touches(self, args: tuple[Any, ...]) -> bool:
        """Whether an argument lies in watched memory."""
        for arg in args:
            if isinstance(arg, torch.Tensor):
                if _storage(arg) in self._views:
                    return True
            elif isinstance(arg, (list, tuple)) and any(
                isinstance(item, torch.Tensor) and _storage(item) in self._views for item in arg
            ):
                return True
        return False

    def _note_writes(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """An input that is written to in place is another input from then on."""
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            if isinstance(value, torch.Tensor):
                storage = _storage(value)
                if storage in self._versions:
                    self._versions[storage] += 1

    def _identify(self, rows: torch.Tensor) -> tuple[int, ...]:
        storage = _storage(rows)
        if storage not in self._versions:
            self._versions[storage] = 0
            self._held.append(rows)
        version = self._versions[storage]
        return (storage, version, rows.storage_offset(), *rows.shape, *rows.stride())

    def product(self, rows: torch.Tensor, operand: torch.Tensor) -> None:
        """Report ``rows @ operand.T``.

        Args:
            rows: shape (…, in_features).
            operand: what multiplies them, shape (out_features, in_features).
        """
        views = self._views.get(_storage(operand))
        if views is None:
            return
        start = int(operand.storage_offset())
        out_stride, in_stride = operand.stride()
        end = start + (operand.shape[0] - 1) * out_stride + 1
        for view in views:
            if (
                view.in_features == operand.shape[1]
                and (view.in_stride == in_stride or view.in_features == 1)
                and start <= view.offset < end
                and (view.offset - start) % max(out_stride, 1) == 0
            ):
                flat = rows.reshape(-1, view.in_features)
                self._observer(view.weight, flat, self._identify(flat))

    def linear(self, args: tuple[Any, ...]) -> None:
        """aten.linear(input, weight, bias)."""
        self.product(args[0], args[1])

    def mm(self, args: tuple[Any, ...]) -> None:
        """aten.mm(a, b), where either may be the weight."""
        left, right = args[0], args[1]
        self.product(left, right.transpose(0, 1))
        if _storage(left) in self._views:
            self.product(right.transpose(0, 1), left)

    def addmm(self, args: tuple[Any, ...]) -> None:
        """aten.addmm(bias, a, b)."""
        self.mm(args[1:3])

    def bmm(self, args: tuple[Any, ...]) -> None:
        """aten.bmm(a, b), one product a batch index (one expert each)."""
        left, right = args[0], args[1]
        if _storage(left) in self._views or _storage(right) in self._views:
            for a, b in zip(left.unbind(0), right.unbind(0), strict=True):
                self.mm((a, b))

    def baddbmm(self, args: tuple[Any, ...]) -> None:
        """aten.baddbmm(bias, a, b)."""
        self.bmm(args[1:3])

    def matmul(self, args: tuple[Any, ...]) -> None:
        """aten.matmul(a, b) with at most one broadcast operand."""
        left, right = args[0], args[1]
        if _storage(left) not in self._views and _storage(right) not in self._views:
            return
        if right.dim() == 2:
            self.product(left, right.transpose(0, 1))
        elif left.dim() == 2 and right.dim() > 2:
            self.product(right.transpose(-1, -2), left)
        if left.dim() == 2 and right.dim() == 2 and _storage(left) in self._views:
            self.product(right.transpose(0, 1), left)
        if left.dim() > 2 and right.dim() > 2:
            shape = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
            a = left.expand(*shape, *left.shape[-2:])
            b = right.expand(*shape, *right.shape[-2:])
            for index in torch.cartesian_prod(*(torch.arange(n) for n in shape)).view(
                -1, len(shape)
            ):
                where = tuple(int(i) for i in index)
                self.mm((a[where], b[where]))

    def convolution(self, args: tuple[Any, ...]) -> None:
        """aten.convolution(input, weight, bias, stride, padding, dilation, transposed, …)."""
        rows, kernel, _, stride, padding, dilation, transposed, _, groups = args[:9]
        if not transposed:
            self._convolve(rows, kernel, stride, padding, dilation, groups)

    def conv(self, args: tuple[Any, ...]) -> None:
        """aten.conv1d, conv2d and conv3d(input, weight, bias, stride, padding, dilation, groups).

        Padding is a number a dimension, or the name "same" or "valid".
        """
        rows, kernel, _, stride, padding, dilation, groups = args[:7]
        self._convolve(rows, kernel, stride, padding, dilation, groups)

    def _convolve(
        self,
        inputs: torch.Tensor,
        kernel: torch.Tensor,
        stride: Sequence[int],
        padding: Sequence[int] | str,
        dilation: Sequence[int],
        groups: int,
    ) -> None:
        views = self._views.get(_storage(kernel))
        if views is None:
            return
        window = _window(kernel.shape[2:], stride, padding, dilation)
        padded = nn.functional.pad(inputs, window.sides) if any(window.sides) else inputs
        per_group = kernel.shape[0] // groups
        width = kernel[0].numel()
        for view in views:
            first, off = divmod(view.offset - int(kernel.storage_offset()), kernel.stride(0))
            if off or not 0 <= first < kernel.shape[0] or view.in_features != width:
                continue
            group = first // per_group
            if first + view.out_features > (group + 1) * per_group:
                raise ModelError(
                    f"{view.weight.name} spans several groups of a grouped convolution, which "
                    "have inputs of their own; the plugin must locate one weight a group"
                )
            flat = _unfold(padded, kernel.shape, window, group)
            whole = (*self._identify(inputs), *kernel.shape[1:])
            identity = (*whole, *window.stride, *window.dilation, *window.sides, group)
            self._observer(view.weight, flat, identity)

    def grouped(self, args: tuple[Any, ...]) -> None:
        """aten._grouped_mm(rows, weights, ends): rows sorted by expert."""
        rows, weights = args[0], args[1]
        if _storage(weights) not in self._views:
            return
        ends = args[2] if len(args) > 2 else None
        if ends is None:
            self.bmm((rows, weights))
            return
        start = 0
        for expert, stop in enumerate(ends.tolist()):
            if stop > start:
                self.product(rows[start:stop], weights[expert].transpose(0, 1))
            start = stop


def _window(
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
) -> _Window:
    """The window of a kernel of `size`; padding is a number a dimension, "same" or "valid"."""
    dims = len(size)
    spread = _broadcast(dilation, dims)
    if padding == "same":
        # As torch pads: the odd one, where there is one, at the end.
        total = [d * (k - 1) for d, k in zip(spread, size, strict=True)]
        around = [(n // 2, n - n // 2) for n in total]
    elif isinstance(padding, str):
        around = [(0, 0)] * dims
    else:
        around = [(n, n) for n in _broadcast(padding, dims)]
    sides = tuple(n for pair in reversed(around) for n in pair)
    return _Window(_broadcast(stride, dims), spread, sides)


def _broadcast(value: Sequence[int], dims: int) -> tuple[int, ...]:
    """One number a dimension, where one may stand for all."""
    numbers = tuple(int(n) for n in value)
    return numbers * dims if len(numbers) == 1 else numbers


def _unfold(
    inputs: torch.Tensor, kernel: Sequence[int], window: _Window, group: int
) -> torch.Tensor:
    """What the kernel of one group sees, a row a place.

    Args:
        inputs: padded, shape (batch, channels, …) or (channels, …).
        kernel: shape (out_channels, channels / groups, …).
        window: how the kernel slides.
        group: which channels.

    Returns:
        Shape (batch · places, channels / groups · kernel size), columns in the order of the
        flattened kernel.
    """
    dims = len(kernel) - 2
    batched = inputs if inputs.dim() == dims + 2 else inputs.unsqueeze(0)
    channels = kernel[1]
    taken = batched[:, group * channels : (group + 1) * channels]
    for i in range(dims):
        spread = window.dilation[i] * (kernel[2 + i] - 1) + 1
        taken = taken.unfold(2 + i, spread, window.stride[i])[..., :: window.dilation[i]]
    # (batch, channels, places …, kernel …) → (batch, places …, channels, kernel …)
    order = (0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
    rows = taken.permute(order)
    return rows.reshape(-1, channels * math.prod(kernel[2:]))


def _positional(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """All arguments in the order of the schema, defaults filled in."""
    schema = func._schema.arguments
    if len(args) == len(schema):
        return args
    return args + tuple(
        kwargs.get(argument.name, argument.default_value) for argument in schema[len(args) :]
    )


_PRODUCTS: dict[Any, Callable[[WeightTap, tuple[Any, ...]], None]] = {
    aten.linear: WeightTap.linear,
    aten.mm: WeightTap.mm,
    aten.addmm: WeightTap.addmm,
    aten.bmm: WeightTap.bmm,
    aten.baddbmm: WeightTap.baddbmm,
    aten.matmul: WeightTap.matmul,
    aten._grouped_mm: WeightTap.grouped,
    aten.convolution: WeightTap.convolution,
    aten.conv1d: WeightTap.conv,
    aten.conv2d: WeightTap.conv,
    aten.conv3d: WeightTap.conv,
}
