"""Checks of a runtime: the same outputs to rounding, and the dense model back bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ...errors import AtpError
from ...runtime import Acceleration, Runtime
from .._check import CheckFailed, CheckSkipped, checker, require
from .._walk import bits
from ._offered import OfferSubject, built

__all__ = ["CHECKS"]

CHECKS: list[tuple[str, Callable[[OfferSubject], None]]] = []
_check = checker(CHECKS)

_TOLERANCE = 2e-5  # of the largest output, in float32


class _Small(nn.Module):
    """Linear layers of several shapes; one of them is shared, one has no zeros, one no bias."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Linear(96, 256)
            self.middle = nn.Linear(256, 256, bias=False)
            self.full = nn.Linear(256, 200)
            self.last = nn.Linear(200, 33)
            for layer in (self.first, self.middle, self.last):
                weight = layer.weight.data
                weight[torch.rand(weight.shape) < 0.7] = 0.0
            self.middle.weight.data[0, :2] = -0.0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(inputs))
        hidden = hidden + self.middle(torch.tanh(self.middle(hidden)))
        found: torch.Tensor = self.last(torch.relu(self.full(hidden)))
        return found


def _ready(subject: OfferSubject) -> tuple[Runtime, nn.Module]:
    """The runtime, and a model where it can run."""
    runtime: Runtime = subject.build()
    try:
        runtime.check()
    except AtpError as error:
        raise CheckSkipped(f"it cannot run here: {error}") from None
    devices = tuple(getattr(runtime, "devices", ())) or ("cpu",)
    return runtime, _Small().eval().to(devices[0])


def _outputs(model: nn.Module) -> list[torch.Tensor]:
    device = next(iter(model.state_dict().values())).device
    shapes = ((1, 96), (5, 96), (2, 3, 96), (0, 96))
    found = []
    for i, shape in enumerate(shapes):
        inputs = torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(device)
        with torch.inference_mode():
            found.append(model(inputs).cpu())
    return found


@_check("is built, has the name it is offered under, and can run here or says why not")
def _built(subject: OfferSubject) -> None:
    runtime = built(subject)
    for method in ("check", "accelerate", "restore", "info"):
        require(callable(getattr(runtime, method, None)), f"it has no method {method!r}")
    try:
        runtime.check()
    except AtpError as error:
        require(bool(str(error).strip()), "it cannot run here, and does not say why")


@_check("gives the outputs of the dense model, to rounding")
def _same(subject: OfferSubject) -> None:
    runtime, model = _ready(subject)
    dense = _outputs(model)
    runtime.accelerate(model)
    sparse = _outputs(model)
    for one, other in zip(dense, sparse, strict=True):
        require(one.shape == other.shape, f"outputs of shape {tuple(one.shape)} became "
                f"{tuple(other.shape)}")
        off = float((one - other).abs().max()) if one.numel() else 0.0
        bound = _TOLERANCE * float(one.abs().max()) if one.numel() else 0.0
        require(off <= bound, f"outputs differ by {off:.2g}, and {bound:.2g} is rounding")


@_check("tells what it did to each layer")
def _told(subject: OfferSubject) -> None:
    runtime, model = _ready(subject)
    done = runtime.accelerate(model)
    require(isinstance(done, Acceleration), f"it gave {type(done).__name__}, not Acceleration")
    shapes = {"first": (256, 96), "middle": (256, 256), "full": (200, 256), "last": (33, 200)}
    names = [layer.name for layer in done.layers]
    require(sorted(names) == sorted(shapes), f"it told of {names}, not of {sorted(shapes)}")
    for layer in done.layers:
        what = f"layer {layer.name!r}"
        require(tuple(layer.shape) == shapes[layer.name], f"{what} has shape {layer.shape}")
        wanted = 0.0 if layer.name == "full" else 0.7
        require(abs(layer.sparsity - wanted) < 0.05, f"{what} has sparsity {layer.sparsity}")
        require(bool(layer.kernel and layer.reason), f"{what} names no kernel or no reason")
        require(layer.dense_bytes > 0 and layer.bytes > 0, f"{what} takes no bytes")
    info = runtime.info()
    texts = all(isinstance(part, str) for pair in info.items() for part in pair)
    require(texts, "info gave something else than texts by name")


@_check("restores the dense model, bit for bit")
def _restored(subject: OfferSubject) -> None:
    runtime, model = _ready(subject)
    before, dense = bits(model.state_dict()), _outputs(model)
    kinds = [(name, type(module)) for name, module in model.named_modules()]
    for _ in range(2):
        runtime.accelerate(model)
        _outputs(model)
        runtime.restore(model)
        if bits(model.state_dict()) != before:
            raise CheckFailed("the weights came back otherwise than they were")
        after = [(name, type(module)) for name, module in model.named_modules()]
        require(after == kinds, "the modules came back otherwise than they were")
        same = all(map(torch.equal, dense, _outputs(model)))
        require(same, "the outputs came back otherwise than they were")
