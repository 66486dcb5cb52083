"""The module that stands for an `nn.Linear` while a model is accelerated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from atp_core.errors import ModelError

from ._choose import Plan
from ._packed import DTYPES, PackedWeight, unpack
from ._products import Formats, product

__all__ = ["SparseLinear"]


class SparseLinear(nn.Module):
    """A linear layer whose products go the routes of a plan.

    For inference: gradients flow to the input and the bias, packed weights are constants. Its
    `state_dict` has the dense weight under the key of the layer it stands for. `weight` is the
    dense weight, unpacked anew at each access where it is not kept.

    Args:
        original: the layer. Its parameters are used, not copied; its dense weight is let go where
            no route of the plan takes it.
        plan: routes by number of tokens.
        formats: the weight in the formats that the routes take.
        copy: the packed weight in host memory, where the formats alone do not give the dense
            weight back bit for bit.
    """

    def __init__(
        self, original: nn.Linear, plan: Plan, formats: Formats, copy: PackedWeight | None = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = original.in_features, original.out_features
        self.plan = plan
        self.train(original.training)
        self._home, self._dtype = original.weight.device, original.weight.dtype
        if formats.dense is not None:
            self.weight = original.weight
        self.register_parameter("bias", original.bias)
        for name in ("mask", "values", "offsets"):
            self.register_buffer(name, getattr(formats.packed, name, None), persistent=False)
        self.register_buffer("semi", formats.semi, persistent=False)
        self._copy = copy
        # In a tuple, so that it is no submodule and its parameters are not counted twice.
        self._original = (original,)
        if formats.dense is None:
            original.weight.data = original.weight.new_empty(0)

    @property
    def formats(self) -> Formats:
        """The weight in the formats that it is kept in."""
        packed = None
        if self.mask is not None:
            packed = PackedWeight(
                self.mask, self.values, self.offsets, (self.out_features, self.in_features)
            )
        return Formats(self._parameters.get("weight"), packed, self.semi)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] · Wᵀ + bias, [..., out_features].

        Raises:
            ModelError: the last dimension or the dtype of `x` is not that of the layer. Under
                autocast the dtype of `x` gives way, and the result has that of the weight.
        """
        if x.shape[-1] != self.in_features:
            raise ModelError(f"a layer of {self.in_features} inputs was given {list(x.shape)}")
        tokens = x.reshape(-1, self.in_features)
        y = product(self.plan.route(tokens.shape[0]), tokens, self.formats, self.bias)
        return y.view(*x.shape[:-1], self.out_features)

    def dense_weight(self) -> Tensor:
        """The dense weight [out_features, in_features], bit for bit that of the original layer."""
        formats = self.formats
        if formats.dense is not None:
            return formats.dense
        packed = formats.packed if self._copy is None else self._copy
        assert packed is not None, "a layer that keeps no dense weight keeps it packed"
        return unpack(packed).to(self._device())

    def restored(self) -> nn.Linear:
        """The original layer, its weight in place, on the device of this one."""
        (original,) = self._original
        if "weight" in self._parameters:
            original.weight = self.weight
        else:
            original.weight.data = self.dense_weight()
        original.bias = self.bias
        original.train(self.training)
        return original

    def extra_repr(self) -> str:
        """Sizes and routes, for `print(model)`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, routes={self.plan}"
        )

    def _device(self) -> torch.device:
        held = (self.values, self.semi, self.bias)
        return next((t.device for t in held if t is not None), self._home)

    def __getattr__(self, name: str) -> Any:
        # Only once it is complete: torch asks for names while it registers them.
        if name == "weight" and "_original" in vars(self) and name not in self._parameters:
            return self.dense_weight()
        return super().__getattr__(name)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves and casts. Values cast as the dense weight would; the plan stays."""
        before = self.values.dtype if self.values is not None else self._dtype
        after = fn(torch.empty(0, dtype=before, device=self._device())).dtype
        if after != before and (self.semi is not None or after not in DTYPES):
            raise ModelError(
                f"this accelerated layer ({self.plan}) cannot change from {before} to {after}: "
                "call restore(model), cast, and accelerate again"
            )
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if "weight" not in self._parameters:
            destination[prefix + "weight"] = self.dense_weight()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        errors = args[-1]
        errors.append(f"{prefix}weight is accelerated: call restore(model) before loading weights")
