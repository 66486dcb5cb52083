"""A linear layer with packed weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from atp_core.errors import ModelError

from ._compute import compute
from ._op import sparse_linear
from ._packed import Packed, pack
from ._plan import Plan, rule

__all__ = ["SparseLinear"]

T = TypeVar("T")
_BUFFERS = ("masks", "values", "offsets", "scales")
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class SparseLinear(nn.Module):
    """`nn.Linear` for inference, with its weight as bit mask and nonzeros.

    Its `state_dict` has the keys of the dense layer, with the weight made dense, and takes them
    back. Gradients flow to inputs and bias; the weight is fixed. NaN and infinity in inputs come
    out as in the dense layer, but for one thing: the way "spmm" skips zero weights, so that an
    infinite input that meets a zero gives nothing there and not NaN.

    Args:
        packed: the weight.
        bias: [out_features] or None.
        dtype: the type of inputs and outputs; that of the weight before it was packed.
        plan: the way for each bucket of tokens; by rule where none is given.
        dense: the dense weight, where the plan has `Path.DENSE`.
    """

    masks: Tensor
    values: Tensor
    offsets: Tensor
    scales: Tensor | None

    def __init__(
        self,
        packed: Packed,
        bias: nn.Parameter | None,
        dtype: torch.dtype,
        plan: Plan | None = None,
        dense: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = packed.columns, packed.rows
        self.dtype = dtype
        self.bias = bias
        self.plan = plan or rule(packed.values.dtype)
        self._dense = _Hidden(dense)
        self._origin: _Hidden[nn.Module] = _Hidden(None)
        self._transposed = False
        self._put(packed)

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, int8: bool = False) -> Self:
        """A packed copy of a dense layer, which stays as it is; the bias is shared.

        Args:
            linear: on the CPU; bfloat16, float16 or float32.
            int8: round the values to 8 bits (see `pack`).

        Raises:
            ModelError: the weight cannot be packed, or there are no kernels here.
        """
        packed = pack(linear.weight, int8=int8)
        bias = linear.bias
        return cls(packed, bias, linear.weight.dtype).train(linear.training)

    @property
    def packed(self) -> Packed:
        """The packed weight."""
        return Packed(
            self.masks,
            self.values,
            self.offsets,
            self.scales,
            self.out_features,
            self.in_features,
        )

    @property
    def weight(self) -> Tensor:
        """The dense weight, in the layout of the layer that this one stands for.

        Made anew at every reading, unless it is kept.
        """
        dense = self._dense.value
        weight = self.packed.unpack(self.dtype) if dense is None else dense
        return weight.t().contiguous() if self._transposed else weight

    @property
    def bytes(self) -> int:
        """Memory of the weight, in bytes, a dense one that is kept included."""
        dense = self._dense.value
        return self.packed.bytes + (0 if dense is None else dense.nbytes)

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return 1 - int(self.offsets[-1]) / max(self.in_features * self.out_features, 1)

    @property
    def stands(self) -> bool:
        """Whether it replaces a dense layer, which `release` gives back."""
        return self._origin.value is not None

    def forward(self, x: Tensor) -> Tensor:
        """Compute `x @ weight.T + bias`.

        Args:
            x: [..., in_features], of the layer's type. Under autocast of the CPU other floats are
                converted, and the result has autocast's type.

        Returns:
            [..., out_features].

        Raises:
            ModelError: another type, device or number of features.
        """
        if torch.is_autocast_enabled("cpu") and x.is_floating_point():
            with torch.autocast("cpu", enabled=False):
                return self.forward(x.to(self.dtype)).to(torch.get_autocast_dtype("cpu"))
        if x.dtype != self.dtype or x.device.type != "cpu" or x.shape[-1] != self.in_features:
            raise ModelError(
                f"a sparse layer for {self.in_features} features of {self.dtype} on the CPU got "
                f"{tuple(x.shape)} of {x.dtype} on {x.device}; convert the input, or restore() "
                "the model before its type or device changes"
            )
        bias = self.bias
        wants_gradient = torch.is_grad_enabled() and (
            x.requires_grad or (bias is not None and bias.requires_grad)
        )
        # Going through the dispatcher costs as much as a small layer.
        if (
            wants_gradient
            or type(x) is not Tensor
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        ):
            operator: Callable[..., Tensor] = sparse_linear
            return operator(
                x,
                self.masks,
                self.values,
                self.offsets,
                self.scales,
                bias,
                self._dense.value,
                self.out_features,
                list(self.plan),
            )
        return compute(
            x, self._struct.get(self), self.values.dtype, bias, self._dense.value, self.plan
        )

    def extra_repr(self) -> str:
        """Shape, type and share of zeros."""
        stored = "int8" if self.scales is not None else str(self.dtype).removeprefix("torch.")
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {stored}, sparsity={self.sparsity:.3f}"
        )

    # --- standing for a dense layer ----------------------------------------------------------

    def stand_for(self, origin: nn.Module, *, transposed: bool = False) -> None:
        """Take over hooks and mode of a dense layer, and keep it, without its weight's memory.

        Args:
            origin: the layer, whose weight is let go of here.
            transposed: whether it keeps its weight as [in_features, out_features].
        """
        for name in _HOOKS:
            # The very same collections: handles given out before still remove their hooks.
            self.__dict__[name] = origin.__dict__[name]
        self.training = origin.training
        self._origin = _Hidden(origin)
        self._transposed = transposed
        weight = origin.weight
        assert isinstance(weight, Tensor)
        if self._dense.value is None:
            weight.data = weight.data.new_empty(0)

    def release(self) -> nn.Module:
        """The dense layer again: the same object, parameters, hooks.

        Raises:
            ModelError: the layer was not made by `accelerate`.
        """
        origin = self._origin.value
        if origin is None:
            raise ModelError("this sparse layer stands for no dense one; nothing to restore")
        weight = origin.weight
        assert isinstance(weight, Tensor)
        if weight.numel() == 0:
            weight.data = self.weight
        origin.train(self.training)
        return origin

    # --- being a module ----------------------------------------------------------------------

    def _put(self, packed: Packed) -> None:
        for name in _BUFFERS:
            self.register_buffer(name, getattr(packed, name), persistent=False)
        self._struct = _Struct()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight.detach()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:
        key = prefix + "weight"
        weight = state_dict.get(key)
        others = {name: value for name, value in state_dict.items() if name != key}
        super()._load_from_state_dict(
            others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if weight is None:
            if strict:
                missing_keys.append(key)
            return
        dense = weight.t() if self._transposed else weight
        if tuple(dense.shape) != (self.out_features, self.in_features):
            error_msgs.append(f"size mismatch for {key}: {tuple(weight.shape)}")
            return
        dense = dense.detach().to("cpu", self.dtype)
        self._put(pack(dense, int8=self.scales is not None))
        if (kept := self._dense.value) is not None:
            kept.copy_(dense)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        probe = fn(torch.empty(0, dtype=self.dtype))
        if probe.dtype != self.dtype or probe.device.type != "cpu":
            raise ModelError(
                f"a packed weight of {self.dtype} on the CPU cannot become {probe.dtype} on "
                f"{probe.device}; restore() the model, convert it, accelerate() it again"
            )
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_struct": _Struct()}


class _Hidden(Generic[T]):
    """Something that a module keeps without making it a part of itself."""

    def __init__(self, value: T | None) -> None:
        self.value = value


class _Struct:
    """The C side of a layer's weight, made at first use."""

    def __init__(self) -> None:
        self.value: Any = None

    def get(self, layer: SparseLinear) -> Any:
        if self.value is None:
            self.value = layer.packed.struct()
        return self.value
