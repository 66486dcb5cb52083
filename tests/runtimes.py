"""A small runtime for tests: linear layers as sparse matrices of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from atp_core.errors import ModelError
from atp_core.hookspecs import hookimpl
from atp_core.records import Offer
from atp_core.runtime import AcceleratedLayer, Acceleration

__all__ = ["Coo", "CooLinear", "Plugin", "Refusing"]


class CooLinear(nn.Module):
    """x → x Wᵀ + b with W as a list of entries."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.dense = [dense]  # in a list, so that it is no module of this one
        # −0.0 is no entry of the sparse matrix, and adds nothing to its product.
        self.entries = dense.weight.detach().float().to_sparse().coalesce()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        [dense] = self.dense
        flat = inputs.reshape(-1, inputs.shape[-1]).float()
        found = (self.entries @ flat.T).T.to(inputs.dtype)
        found = found if dense.bias is None else found + dense.bias
        return found.reshape(*inputs.shape[:-1], dense.out_features)


class Coo:
    """Every linear layer whose weight is half zeros or more."""

    name = "coo"
    runs = 0

    def check(self) -> None:
        pass

    def accelerate(
        self, model: nn.Module, weights: Mapping[str, torch.Tensor] | None = None
    ) -> Acceleration:
        type(self).runs += 1
        layers = []
        for name, module in list(model.named_modules()):
            if not isinstance(module, nn.Linear):
                continue
            weight = module.weight.detach()
            sparsity = float((weight == 0).float().mean())
            size = weight.nbytes
            kernel, reason = "dense", "fewer than half of its weights are zero"
            if sparsity >= 0.5:
                made = CooLinear(module)
                model.set_submodule(name, made)
                kernel, reason = "coo", "half of its weights or more are zero"
                size = made.entries.values().nbytes + made.entries.indices().nbytes
            shape = (module.out_features, module.in_features)
            layers.append(
                AcceleratedLayer(name, shape, sparsity, kernel, reason, weight.nbytes, size)
            )
        return Acceleration(tuple(layers))

    def restore(self, model: nn.Module) -> None:
        for name, module in list(model.named_modules()):
            if isinstance(module, CooLinear):
                model.set_submodule(name, module.dense[0])

    def info(self) -> Mapping[str, str]:
        return {"format": "list of entries"}


class Refusing(Coo):
    """Cannot run anywhere."""

    name = "refusing"

    def check(self) -> None:
        raise ModelError("it needs a machine that is not there; get one")


class Plugin:
    """Offers runtimes."""

    ATP_HOOK_API = 1

    def __init__(self, *kinds: Any) -> None:
        self._kinds = kinds

    @hookimpl
    def atp_runtimes(self) -> Sequence[Offer]:
        return [Offer(kind.name, kind, "for tests") for kind in self._kinds]
