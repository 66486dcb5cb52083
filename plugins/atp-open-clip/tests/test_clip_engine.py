"""The engine on towers whose attention keeps bare parameters, against explicit computations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import atp_open_clip
from atp_core.engine.lockstep import Lockstep
from atp_core.engine.observation import BlockStatistics
from atp_core.engine.placement import Placement
from atp_core.engine.pruning import PruneOptions, PruneReport, prune_model
from atp_core.methods import Pruned
from atp_core.methods.wanda import Wanda
from atp_core.records import (
    Block,
    Calibration,
    Chain,
    DataRequest,
    LoadedModel,
    LoadRequest,
    PrunableWeight,
    Schedule,
    Source,
)


class Rows:
    """Keeps every row it is given."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []
        self.tokens = 0

    def add(self, inputs: torch.Tensor, sequences: int) -> None:
        self.rows.append(inputs.clone())
        self.tokens += len(inputs)

    def finite(self) -> bool:
        return True


class Keeper:
    """A method that prunes nothing and keeps the inputs of every weight."""

    name = "keeper"
    calibrated = True

    def statistics(self, in_features: int, device: torch.device) -> Rows:
        return Rows()

    def prune(self, weight: torch.Tensor, rate: float, statistics: Any) -> Pruned:
        return Pruned(torch.ones_like(weight, dtype=torch.bool))


def calibrate(loaded: LoadedModel, colours: Path, samples: int = 16) -> Calibration:
    return atp_open_clip.atp_calibrate(
        loaded, DataRequest(calibration=str(colours), samples=samples)
    )


def uniform(chains: list[Chain], rate: float) -> Schedule:
    rates = {chain.name: {block.name: rate for block in chain.blocks} for chain in chains}
    return Schedule(rates, rate, "uniform")


def prune(
    loaded: LoadedModel, chains: list[Chain], rate: float, calibration: Calibration
) -> PruneReport:
    return prune_model(
        loaded, chains, uniform(chains, rate), Wanda(), calibration, PruneOptions()
    )


def attention_inputs(
    module: Any, x: torch.Tensor, mask: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """What enters each projection of a block of open_clip, x of shape (batch, tokens, width)."""
    attention = module.attn
    normed = module.ln_1(x)
    q, k, v = functional.linear(
        normed, attention.in_proj_weight, attention.in_proj_bias
    ).chunk(3, -1)
    heads = attention.num_heads

    def split(t: torch.Tensor) -> torch.Tensor:
        return t.unflatten(-1, (heads, -1)).transpose(1, 2)

    scores = split(q) @ split(k).transpose(-1, -2) / (q.shape[-1] // heads) ** 0.5
    if mask is not None:
        scores = scores + mask
    mixed = (scores.softmax(-1) @ split(v)).transpose(1, 2).flatten(2)
    after = x + attention.out_proj(mixed)
    hidden = module.mlp.c_fc(module.ln_2(after))
    return {
        "attn.in_proj_weight[q]": normed,
        "attn.in_proj_weight[k]": normed,
        "attn.in_proj_weight[v]": normed,
        "attn.out_proj.weight": mixed,
        "mlp.c_fc.weight": module.ln_2(after),
        "mlp.c_proj.weight": module.mlp.gelu(hidden),
    }


@pytest.mark.parametrize("chain", [0, 1], ids=["vision", "text"])
def test_statistics_of_attention_equal_an_explicit_computation(
    loaded: LoadedModel, colours: Path, chain: int
) -> None:
    loaded.model.double()
    chains = atp_open_clip.atp_locate(loaded)
    calibration = calibrate(loaded, colours)
    block = chains[chain].blocks[1]
    with torch.inference_mode(), Lockstep(calibration.forward, calibration.batches, chains) as run:
        for stop in run:
            if stop.block is block:
                break
        statistics = BlockStatistics(block, Keeper())
        statistics.run(stop.calls, calibration.batch_samples, Placement(None))
        x = torch.cat([call.args[0] for call in stop.calls])
        expected = attention_inputs(block.module, x, stop.calls[0].kwargs.get("attn_mask"))
    assert len(block.weights) == len(expected)
    for weight in block.weights:
        seen = torch.cat(statistics.of(weight).rows).double()
        wanted = expected[weight.name.removeprefix(f"{block.name}.")].flatten(0, 1)
        assert seen.shape == wanted.shape, weight.name
        # Attention may put the tokens in another order, which no statistic depends on.
        found, exact = seen.T @ seen, wanted.T @ wanted
        assert torch.allclose(found, exact, atol=1e-6 * float(exact.max())), weight.name


class PlainBlock(nn.Module):
    """A block of open_clip with a Linear layer for every projection."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.ln_1, self.ln_2, self.mlp = (
            copy.deepcopy(part) for part in (block.ln_1, block.ln_2, block.mlp)
        )
        width = block.attn.embed_dim
        self.heads = block.attn.num_heads
        weights = block.attn.in_proj_weight.detach().chunk(3)
        biases = block.attn.in_proj_bias.detach().chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            layer = nn.Linear(width, width).to(weight.dtype)
            layer.load_state_dict({"weight": weight, "bias": bias})
            setattr(self, name, layer)
        self.out = nn.Linear(width, width).to(weights[0].dtype)
        self.out.load_state_dict(block.attn.out_proj.state_dict())

    def get_weight_dtype(self) -> torch.dtype:
        return self.out.weight.dtype

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        normed = self.ln_1(x)
        q, k, v = (
            layer(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if attn_mask is not None:
            scores = scores + attn_mask
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x))


def test_masks_equal_those_of_a_model_of_linear_layers(loaded: LoadedModel, colours: Path) -> None:
    loaded.model.double()
    model: Any = loaded.model
    twin = copy.deepcopy(model)
    chains = atp_open_clip.atp_locate(loaded)
    twins = []
    for chain, stack in zip(
        chains, (twin.visual.transformer.resblocks, twin.transformer.resblocks), strict=True
    ):
        blocks = []
        for i, block in enumerate(chain.blocks):
            stack[i] = plain = PlainBlock(block.module)
            layers = [plain.q, plain.k, plain.v, plain.out, plain.mlp.c_fc, plain.mlp.c_proj]
            weights = [PrunableWeight(f"{block.name}.{n}", layer) for n, layer in enumerate(layers)]
            blocks.append(Block(block.name, plain, weights))
        twins.append(Chain(chain.name, blocks))
    other = LoadedModel(twin, loaded.source, processor=loaded.processor)
    calibration, theirs = calibrate(loaded, colours), calibrate(other, colours)
    prune(loaded, list(chains), 0.6, calibration)
    prune(other, twins, 0.6, theirs)
    for chain, chain_of_twin in zip(chains, twins, strict=True):
        for block, plain_block in zip(chain.blocks, chain_of_twin.blocks, strict=True):
            for weight, layer in zip(block.weights, plain_block.weights, strict=True):
                mask, expected = weight.matrix() != 0, layer.matrix() != 0
                assert torch.equal(mask, expected), weight.name
                assert 0.35 < float(mask.double().mean()) < 0.45


def test_lockstep_inputs_equal_the_plain_forward_bit_for_bit(
    loaded: LoadedModel, colours: Path
) -> None:
    calibration = calibrate(loaded, colours)
    chains = atp_open_clip.atp_locate(loaded)
    plain: dict[str, list[torch.Tensor]] = {}
    handles = [
        block.module.register_forward_pre_hook(
            lambda module, args, name=block.name: plain.setdefault(name, []).append(args[0])
        )
        for chain in chains
        for block in chain.blocks
    ]
    with torch.inference_mode():
        for batch in calibration.batches:
            calibration.forward(batch)
    for handle in handles:
        handle.remove()
    order = []
    with torch.inference_mode(), Lockstep(calibration.forward, calibration.batches, chains) as run:
        for stop in run:
            order.append(stop.block.name)
            for call, expected in zip(stop.calls, plain[stop.block.name], strict=True):
                assert torch.equal(call.args[0], expected), stop.block.name
    assert order == [block.name for chain in chains for block in chain.blocks]


def test_rates_of_zero_change_no_bit(loaded: LoadedModel, colours: Path) -> None:
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    chains = atp_open_clip.atp_locate(loaded)
    report = prune(loaded, list(chains), 0.0, calibrate(loaded, colours))
    assert report.achieved == 0.0
    assert all(torch.equal(before[name], v) for name, v in loaded.model.state_dict().items())


def test_one_chain_alone(loaded: LoadedModel, colours: Path) -> None:
    """The other tower runs and stays as it is."""
    _, text = atp_open_clip.atp_locate(loaded)
    report = prune(loaded, [text], 0.5, calibrate(loaded, colours))
    assert report.achieved == pytest.approx(0.5, abs=1e-4)
    model: Any = loaded.model
    assert not (model.visual.transformer.resblocks[0].attn.in_proj_weight == 0).any()
    zeros = (model.transformer.resblocks[0].attn.in_proj_weight == 0).double().mean()
    assert float(zeros) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("tower", "vision"),
    [
        ("resnet", {"layers": [1, 2, 1, 2], "width": 8, "head_width": 16, "image_size": 32}),
        ("timm convnext", {"timm_model_name": "convnext_atto", "timm_pool": "avg",
                           "timm_proj": "linear", "image_size": 32}),
        ("timm vit", {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "",
                      "timm_proj": "linear", "image_size": 224}),
        ("custom attention", {"image_size": 16, "patch_size": 8, "layers": 3, "width": 32,
                              "head_width": 8, "qk_norm": True}),
    ],
)  # fmt: skip
def test_every_located_weight_of_other_towers_is_seen_and_pruned(
    tmp_path: Path,
    write_clip: Callable[..., Path],
    make_config: Callable[..., dict[str, Any]],
    colours: Path,
    tower: str,
    vision: dict[str, Any],
) -> None:
    directory = write_clip(tmp_path / "clip", make_config(vision_cfg=vision))
    loaded = atp_open_clip.atp_load(Source(str(directory)), LoadRequest())
    chains = list(atp_open_clip.atp_locate(loaded))
    report = prune(loaded, chains, 0.5, calibrate(loaded, colours, samples=8))
    assert report.achieved == pytest.approx(0.5, abs=1e-4)
    for chain in chains:
        for block in chain.blocks:
            for weight in block.weights:
                zeros = int((weight.matrix() == 0).sum())
                assert abs(zeros - weight.numel / 2) <= 1, weight.name


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_models_of_transformers_are_pruned(
    tiny_transformers: Callable[[str], Any],
    tiny_processor: Callable[[str], Any],
    colours: Path,
    kind: str,
) -> None:
    source = Source("tiny", model=tiny_transformers(kind), processor=tiny_processor(kind))
    loaded = atp_open_clip.atp_load(source, LoadRequest())
    chains = list(atp_open_clip.atp_locate(loaded))
    report = prune(loaded, chains, 0.6, calibrate(loaded, colours))
    assert report.achieved == pytest.approx(0.6, abs=1e-3)
