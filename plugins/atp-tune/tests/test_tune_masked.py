"""What is attached to a model computes what is written here by hand, and merges bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from atp_core.errors import ModelError, UsageError
from atp_core.records import Block, Chain, PrunableWeight
from atp_tune._attached import attach
from atp_tune._settings import TuneSettings
from atp_tune._zeros import check_kept, zeros_of


class Mixed(nn.Module):
    """A weight of every layout: linear, transposed, convolution, rows of one, experts of one."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def pruned(*shape: int) -> nn.Parameter:
            values = torch.randn(*shape, generator=generator)
            return nn.Parameter((values * (values.abs() > 0.7)).to(dtype))

        self.linear = nn.Linear(6, 4, dtype=dtype)
        self.linear.weight = pruned(4, 6)
        self.transposed = pruned(4, 5)
        self.conv = nn.Conv2d(1, 3, 2, dtype=dtype)
        self.conv.weight = pruned(3, 1, 2, 2)
        self.fused = pruned(9, 4)
        self.experts = pruned(2, 4, 4)
        self.norm = nn.LayerNorm(4, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, 6) → (batch, 4)."""
        y = self.norm(self.linear(x))
        z = y @ self.transposed
        images = self.conv(z[:, None, :4].reshape(-1, 1, 2, 2)).flatten(1).sum(1, keepdim=True)
        q, k, v = (y @ self.fused.T).chunk(3, dim=-1)
        mixed = y @ self.experts[0] + torch.tanh(y @ self.experts[1].T)
        return mixed + images + (q * k * v).sum(1, keepdim=True)

    def chains(self) -> list[Chain]:
        weights = [
            PrunableWeight("linear.weight", self.linear),
            PrunableWeight("transposed", self, "transposed", transposed=True),
            PrunableWeight("conv.weight", self.conv),
            *(
                PrunableWeight(f"fused[{i}]", self, "fused", rows=(3 * i, 3 * i + 3))
                for i in range(2)  # the last rows are no prunable weight
            ),
            *(PrunableWeight(f"experts[{i}]", self, "experts", index=(i,)) for i in range(2)),
        ]
        return [Chain("all", [Block("all", self, weights)])]


def stir(trained: dict[str, nn.Parameter]) -> None:
    """Move everything that is trained."""
    generator = torch.Generator().manual_seed(1)
    for parameter in trained.values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_the_merged_model_is_the_one_that_was_trained(mode: Any, dtype: torch.dtype) -> None:
    model = Mixed(dtype).eval()
    chains = model.chains()
    zeros = zeros_of(chains, "mixed")
    classes = [type(module) for module in model.modules()]
    x = torch.randn(7, 6).to(dtype)
    before = model(x).detach()
    attached = attach(model, chains, TuneSettings(mode=mode, rank=3 if mode == "lora" else None), 0)
    assert torch.equal(model(x), before), "training begins where pruning ended"
    assert {one.dtype for one in attached.trained.values()} == {torch.float32}
    stir(attached.trained)
    trained = model(x).detach()
    assert not torch.equal(trained, before)
    attached.merge()
    assert torch.equal(model(x), trained)
    check_kept(zeros, chains, "mixed")
    assert [type(module) for module in model.modules()] == classes
    assert {one.dtype for one in model.parameters()} == {dtype}


def test_the_update_is_that_of_masked_lora() -> None:
    model = Mixed()
    chains = model.chains()
    old = {w.name: w.matrix().clone() for w in chains[0].blocks[0].weights}
    attached = attach(model, chains, TuneSettings(rank=2, alpha=6.0), 0)
    stir(attached.trained)
    trained = {name: one.detach().clone() for name, one in attached.trained.items()}
    attached.merge()
    for weight in chains[0].blocks[0].weights:
        a, b = trained[f"{weight.name}.lora_A"], trained[f"{weight.name}.lora_B"]
        wanted = old[weight.name] + (old[weight.name] != 0) * (6.0 / 2) * (b @ a)
        torch.testing.assert_close(weight.matrix(), wanted)


def test_only_adapters_get_gradients_and_masked_weights_get_none() -> None:
    model = Mixed()
    attached = attach(model, model.chains(), TuneSettings(rank=2), 0)
    model(torch.randn(5, 6)).pow(2).sum().backward()
    with_gradient = {id(p) for p in model.parameters() if p.grad is not None}
    assert not with_gradient
    assert all(one.grad is not None for one in attached.trained.values())

    model = Mixed()
    keep = model.linear.weight != 0
    attached = attach(model, model.chains(), TuneSettings(mode="full"), 0)
    assert attached.parameters == sum(
        int((getattr(m, n) != 0).sum()) for m, n in attached.places
    )
    model(torch.randn(5, 6)).pow(2).sum().backward()
    gradient = attached.trained["linear.weight"].grad
    assert gradient is not None
    assert bool((gradient[~keep] == 0).all()) and bool((gradient[keep] != 0).any())


def test_the_mask_is_reapplied_after_a_step() -> None:
    model = Mixed()
    attached = attach(model, model.chains(), TuneSettings(mode="full"), 0)
    master = attached.trained["linear.weight"]
    gone = master == 0
    master.data += 1.0
    attached.mask()
    assert bool((master[gone] == 0).all()) and bool((master[~gone] != 0).any())


def test_adapters_do_not_depend_on_the_state_of_the_random_generator() -> None:
    drawn = []
    for _ in range(2):
        torch.rand(3)
        model = Mixed()
        drawn.append(attach(model, model.chains(), TuneSettings(), 5).trained)
    assert all(torch.equal(one, drawn[1][name]) for name, one in drawn[0].items())


def test_a_shared_tensor_is_refused() -> None:
    model = Mixed()
    model.add_module("again", nn.Linear(6, 4))
    model.again.weight = model.linear.weight  # type: ignore[union-attr,assignment]
    with pytest.raises(ModelError, match=r"linear\.weight and again\.weight are one tensor"):
        attach(model, model.chains(), TuneSettings(), 0)


def test_a_lost_zero_is_an_error() -> None:
    model = Mixed()
    chains = model.chains()
    zeros = zeros_of(chains, "mixed")
    model.linear.weight.data[:] = 1.0
    with pytest.raises(ModelError, match=r"zeros of linear\.weight are zero no more in it"):
        check_kept(zeros, chains, "it")


def test_a_dense_model_is_refused() -> None:
    model = Mixed()
    for parameter in model.parameters():
        parameter.data += 10.0
    with pytest.raises(UsageError, match=r"nothing is pruned in it: 0\.00% of its"):
        zeros_of(model.chains(), "it")
