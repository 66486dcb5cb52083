"""The adapter for core's hook `atp_runtimes`."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import atp_sparse_cpu
from atp_core.errors import ModelError
from atp_sparse_cpu import SparseLinear
from atp_sparse_cpu._runtime import SparseCpu

pytestmark = pytest.mark.usefixtures("kernels")


def test_offer_leads_to_the_runtime() -> None:
    [offer] = atp_sparse_cpu.atp_runtimes()
    module, _, name = str(offer.target).partition(":")
    assert offer.name == SparseCpu.name == "sparse-cpu"
    assert getattr(sys.modules[module], name) is SparseCpu


def test_accelerates_with_given_weights_and_restores() -> None:
    model = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 8))
    weight = torch.randn(512, 512)
    weight[torch.rand(512, 512) < 0.9] = 0
    runtime = SparseCpu()
    runtime.check()
    done = runtime.accelerate(model, {"0.weight": weight})
    first, second = done.layers
    # What was measured decides the kernels, and whether the dense weight is kept besides.
    assert (first.name, first.shape, first.dense_bytes) == ("0", (512, 512), 4 * 512**2)
    assert first.sparsity == pytest.approx(0.9, abs=0.01) and first.bytes != first.dense_bytes
    assert first.reason.startswith("packed") and first.kernel
    assert (second.kernel, second.reason) == ("dense", "sparsity 0.000 is below 0.4")
    assert isinstance(model[0], SparseLinear) and torch.equal(model[0].weight, weight)
    runtime.restore(model)
    assert type(model[0]) is nn.Linear and torch.equal(model[0].weight, weight)
    assert runtime.info()["path"] == "avx512"


def test_weights_that_do_not_fit_change_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    before = model[0].weight.detach().clone()
    for name, shape in (("0.weight", (3, 4)), ("1.weight", (4, 4))):
        with pytest.raises(ModelError, match=name):
            SparseCpu().accelerate(
                model, {"0.bias": torch.zeros(4), name: torch.zeros(shape)}
            )
    assert torch.equal(model[0].weight, before)
