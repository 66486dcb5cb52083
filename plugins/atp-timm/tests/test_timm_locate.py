"""Which blocks and weights are located, for every family, and that the engine agrees."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from atp_core.engine.lockstep import Lockstep
from atp_core.engine.observation import BlockStatistics
from atp_core.engine.placement import Placement
from atp_core.errors import ModelError
from atp_core.records import Chain, PrunableWeight
from atp_timm._load import on_meta
from atp_timm._locate import locate

sys.path.append(str(Path(__file__).parent))  # the helper beside this file

from _timm_engine import Rows, calibration_of, prune


def build(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **arguments).eval()


def pixels(model: Any, count: int = 2, seed: int = 0) -> torch.Tensor:
    size = timm.data.resolve_input_data_config(model)["input_size"]
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(seed))


def weights_of(chain: Chain) -> dict[str, PrunableWeight]:
    return {weight.name: weight for block in chain.blocks for weight in block.weights}


# --- what is located ---------------------------------------------------------------------------


def test_vit() -> None:
    [chain] = locate(build("test_vit"))
    assert chain.name == "vision" and chain.default
    assert [block.name for block in chain.blocks] == [f"blocks.{i}" for i in range(6)]
    assert [weight.name for weight in chain.blocks[0].weights] == [
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.proj.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight",
    ]
    assert chain.dense == {
        "cls_token": "embedding",
        "pos_embed": "position embedding",
        "patch_embed": "stem",
        "norm": "normalization",
        "head": "output layer",
    }


def test_true_sizes_on_the_meta_device() -> None:
    """Prunable parameters worked out by hand from the published shapes."""
    expected = {
        "vit_base_patch16_224": (12, 12 * 12 * 768**2),
        # Each stage: blocks of 2 · 4 C² in the MLP; depthwise kernels and downsampling are dense.
        "convnext_base": (36, sum(n * 8 * c**2 for n, c in
                                  ((3, 128), (3, 256), (27, 512), (3, 1024)))),
        "swin_tiny_patch4_window7_224": (12, sum(n * 12 * c**2 for n, c in
                                                 ((2, 96), (2, 192), (6, 384), (2, 768)))),
    }  # fmt: skip
    for name, (blocks, parameters) in expected.items():
        with torch.device("meta"):
            model = timm.create_model(name)
        [chain] = locate(model)
        assert (len(chain.blocks), chain.parameters) == (blocks, parameters), name
        assert all(parameter.is_meta for parameter in model.parameters())


def test_blocks_of_convolutional_networks() -> None:
    [chain] = locate(build("resnet18"))
    assert [block.name for block in chain.blocks] == [
        f"layer{stage}.{i}" for stage in range(1, 5) for i in range(2)
    ]
    names = weights_of(chain)
    # A downsampling inside a block is part of it.
    assert "layer2.0.downsample.0.weight" in names
    assert names["layer2.0.conv1.weight"].shape == (128, 64 * 9)
    assert chain.dense["conv1"] == "stem" and chain.dense["fc"] == "output layer"


def test_depthwise_convolutions_stay_dense() -> None:
    [chain] = locate(build("test_efficientnet"))
    assert not any("conv_dw" in name for name in weights_of(chain))
    assert any("depthwise" in reason for reason in chain.dense.values())


def test_a_grouped_convolution_is_a_weight_a_group() -> None:
    model = build("regnetx_002")
    [chain] = locate(model)
    block = chain.blocks[-1]
    grouped = [w for w in block.weights if ".conv2.conv.weight[" in w.name]
    layer = block.module.conv2.conv
    assert len(grouped) == layer.groups > 1
    assert all(w.shape == (layer.out_channels // layer.groups, layer.weight[0].numel())
               for w in grouped)  # fmt: skip
    assert torch.equal(torch.cat([w.matrix() for w in grouped]), layer.weight.flatten(1))


def test_standardized_weights_stay_dense() -> None:
    [chain] = locate(on_meta(lambda: timm.create_model("vit_small_r26_s32_224")))
    assert all(name.startswith("blocks.") for name in weights_of(chain))
    with pytest.raises(ModelError, match="standardized"):
        locate(on_meta(lambda: timm.create_model("resnetv2_50x1_bit")))


def test_positions_are_not_pruned() -> None:
    [chain] = locate(build("swinv2_cr_tiny_ns_224", img_size=64, window_size=4))
    assert not any("meta_mlp" in name for name in weights_of(chain))
    assert "multiplies positions, not the image" in chain.dense.values()


def test_blocks_that_are_attributes_of_the_model() -> None:
    [chain] = locate(on_meta(lambda: timm.create_model("inception_v3")))
    assert [block.name for block in chain.blocks][:4] == [
        "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a",
    ]  # fmt: skip


def test_layers_without_blocks_are_blocks() -> None:
    [chain] = locate(on_meta(lambda: timm.create_model("vgg11")))
    assert [len(block.weights) for block in chain.blocks] == [1] * 9
    assert [block.name for block in chain.blocks][-2:] == ["pre_logits.fc1", "pre_logits.fc2"]
    assert chain.blocks[0].name == "features.3", "the first convolution reads the pixels"


def test_no_chain_is_an_error_that_names_the_architecture() -> None:
    model = build("test_vit")
    model.blocks = nn.Sequential()
    with pytest.raises(ModelError, match="no blocks with prunable weights were found in Vision"):
        locate(model)


def test_a_forward_that_fails_is_told() -> None:
    model = build("test_vit")
    model.blocks[3].mlp.fc1 = nn.Linear(3, 3)
    with pytest.raises(ModelError, match=r"its forward pass fails on the\s+meta device"):
        locate(model)


def test_locating_changes_nothing() -> None:
    model = build("test_convnext")
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    locate(model)
    assert not calls and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 1


def test_a_shared_weight_belongs_to_the_first_block() -> None:
    model = build("test_vit")
    model.blocks[4].mlp.fc1.weight = model.blocks[1].mlp.fc1.weight
    [chain] = locate(model)
    assert "blocks.1.mlp.fc1.weight" in weights_of(chain)
    assert "blocks.4.mlp.fc1.weight" not in weights_of(chain)


def test_a_fused_weight_of_torchs_own_attention() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(64, 4, batch_first=True)
            self.mlp = nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = x + self.attn(x, x, x, need_weights=False)[0]
            return y + self.mlp(y)

    model = build("test_vit")
    model.blocks = nn.Sequential(*(Layer() for _ in range(3)))
    [chain] = locate(model.eval())
    assert [weight.name for weight in chain.blocks[1].weights] == [
        "blocks.1.attn.in_proj_weight",
        "blocks.1.attn.out_proj.weight",
        "blocks.1.mlp.weight",
    ]
    report = prune(model, [chain], 0.5, pixels(model))
    assert report.achieved == pytest.approx(0.5, abs=1e-4)


# --- every family ------------------------------------------------------------------------------

# The smallest model of each module of timm.models.
FAMILIES = [
    *("beit_base_patch16_224", "halonet_h1", "test_byobnet", "cait_xxs24_224", "coat_tiny"),
    *("convit_tiny", "convmixer_768_32", "test_convnext", "cpubone_nano", "crossvit_tiny_240"),
    *("csatv2", "cs3darknet_focus_s", "cspnext_tiny", "davit_tiny", "deepseek_vit_412m"),
    *("deit_tiny_patch16_224", "densenet121", "dla46x_c", "dpn48b", "edgenext_xx_small"),
    *("efficientformer_l1", "efficientformerv2_s0", "test_efficientnet", "efficientvim_m1"),
    *("efficientvit_b0", "efficientvit_m0", "eva02_tiny_patch14_224", "fasternet_t0"),
    *("fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m", "ghostnet_050"),
    *("hardcorenas_b", "hgnetv2_b0", "hiera_tiny_224", "sam2_hiera_tiny", "hrnet_w18_small"),
    *("iformer_t", "inception_next_atto", "inception_resnet_v2", "inception_v3"),
    *("inception_v4", "lcnetv2_small", "levit_128s", "lowformer_b0", "test_mambaout"),
    *("test_coatnet", "poolformer_s12", "gmlp_ti16_224", "mobilenetv3_small_050"),
    *("mobilenetv5_base", "mobilevit_xxs", "mvitv2_tiny", "naflexvit_base_patch16_radio_v3"),
    *("nasnetalarge", "nest_tiny", "nextvit_small", "test_nfnet", "pit_ti_224"),
    *("pnasnet5large", "pvt_v2_b0", "qwen3_vit_88m", "rdnet_tiny", "regnetx_002"),
    *("repghostnet_050", "repvit_m0_9", "res2next50", "resnest14d", "test_resnet"),
    *("resnetv2_18", "rexnet_100", "selecsls42", "legacy_seresnet18", "sequencer2d_s"),
    *("shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs", "swin_s3_tiny_224"),
    *("swinv2_tiny_window16_256", "swinv2_cr_tiny_224", "tiny_vit_5m_224"),
    *("tnt_s_legacy_patch16_224", "tresnet_m", "twins_svt_small", "vgg11", "visformer_tiny"),
    *("test_vit", "vit_tiny_r_s16_p8_224", "test_vit_relpos", "samvit_base_patch16_224"),
    *("vitamin_small_224", "volo_d1_224", "ese_vovnet19b_slim_dw", "legacy_xception"),
    *("xception41", "xcit_nano_12_p8_224"),
]


@pytest.mark.parametrize(
    "name",
    [
        # Its recurrent layers are taken apart step by step on the meta device.
        pytest.param(name, marks=[pytest.mark.slow] if name == "sequencer2d_s" else [])
        for name in FAMILIES
    ],
)
def test_every_family(name: str) -> None:
    """Every matrix is located within its block, or told to stay dense."""
    model = on_meta(lambda: timm.create_model(name)).eval()
    [chain] = locate(model)
    assert len({block.name for block in chain.blocks}) == len(chain.blocks)
    located: dict[nn.Module, int] = {}
    for block in chain.blocks:
        assert block.module is model.get_submodule(block.name) and block.weights
        inside = set(block.module.modules())
        for weight in block.weights:
            assert weight.module in inside
            located[weight.module] = located.get(weight.module, 0) + weight.numel
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            general = re.sub(r"(?<=[.])\d+(?=[.]|$)", "*", f"{path}.weight")
            told = any(general == key or general.startswith(f"{key}.") for key in chain.dense)
            if module in located:
                assert located[module] == module.weight.numel(), f"{path} is located in part"
            else:
                assert told, f"{path} is neither located nor told to stay dense"


def test_every_module_of_timm_has_its_model_here() -> None:
    known = {timm.model_entrypoint(name).__module__ for name in FAMILIES}
    installed = {timm.model_entrypoint(name).__module__ for name in timm.list_models()}
    if timm.__version__ == "1.0.31":
        assert known == installed
    assert len(known) == len(FAMILIES)


# --- the engine agrees -------------------------------------------------------------------------

ENGINE = {
    "test_vit": {},
    "test_convnext": {},
    "test_resnet": {},
    "test_efficientnet": {},
    "regnetx_002": {},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4, "embed_dim": 32,
                                     "depths": (2, 2), "num_heads": (2, 4)},
}  # fmt: skip


@pytest.mark.parametrize("name", ENGINE)
def test_lockstep_inputs_equal_the_plain_forward(name: str) -> None:
    model = build(name, **ENGINE[name])
    chains = locate(model)
    batches = [pixels(model, seed=seed) for seed in range(2)]
    plain: dict[str, list[torch.Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args: plain.setdefault(name, []).append(args[0].clone())

    handles = [b.module.register_forward_pre_hook(keep(b.name)) for b in chains[0].blocks]
    with torch.inference_mode():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    order = []
    with torch.inference_mode(), Lockstep(model, batches, chains) as steps:
        for stop in steps:
            order.append(stop.block.name)
            for call, expected in zip(stop.calls, plain[stop.block.name], strict=True):
                assert torch.equal(call.args[0], expected)
    assert order == [block.name for block in chains[0].blocks]


@pytest.mark.parametrize("name", ENGINE)
def test_statistics_equal_an_explicit_unfolding(name: str) -> None:
    """Each layer's own input, unfolded with torch where it is a convolution."""
    model = build(name, **ENGINE[name])
    chains = locate(model)
    calibration = calibration_of(model, [pixels(model)])
    checked = 0
    with torch.inference_mode(), Lockstep(model, calibration.batches, chains) as steps:
        for stop in steps:
            statistics = BlockStatistics(stop.block, Rows())  # type: ignore[arg-type]
            given: dict[nn.Module, torch.Tensor] = {}
            handles = [
                weight.module.register_forward_pre_hook(
                    lambda module, args, into=given: into.__setitem__(module, args[0].clone())
                )
                for weight in stop.block.weights
            ]
            statistics.run(stop.calls, calibration.batch_samples, Placement(None))
            for handle in handles:
                handle.remove()
            for weight in stop.block.weights:
                rows: Any = statistics.of(weight)
                expected = _inputs_of(weight, given[weight.module])
                torch.testing.assert_close(torch.cat(rows.rows), expected, rtol=0, atol=0)
                checked += 1
    assert checked == len(weights_of(chains[0])) > 4


def _inputs_of(weight: PrunableWeight, x: torch.Tensor) -> torch.Tensor:
    layer: Any = weight.module
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, layer.in_features)
    if type(layer).__name__ == "Conv2dSame":
        x = timm.layers.pad_same(x, layer.kernel_size, layer.stride, layer.dilation)
        padding: Any = 0
    else:
        padding = layer.padding
    group = 0 if weight.rows is None else weight.rows[0] * layer.groups // layer.out_channels
    width = layer.in_channels // layer.groups
    part = x[:, group * width : (group + 1) * width]
    columns = nn.functional.unfold(part, layer.kernel_size, layer.dilation, padding, layer.stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


@pytest.mark.parametrize("name", ENGINE)
def test_rate_zero_leaves_every_bit(name: str) -> None:
    model = build(name, **ENGINE[name])
    x = pixels(model)
    with torch.inference_mode():
        before = model(x)
        prune(model, locate(model), 0.0, x)
        assert torch.equal(model(x), before)


@pytest.mark.parametrize("name", ENGINE)
@pytest.mark.parametrize("calibrated", [True, False], ids=["wanda", "magnitude"])
def test_the_budget_is_met(name: str, calibrated: bool) -> None:
    model = build(name, **ENGINE[name])
    dense = {key: value.clone() for key, value in model.state_dict().items()}
    chains = locate(model)
    report = prune(model, chains, 0.6, pixels(model) if calibrated else None)
    assert report.achieved == pytest.approx(0.6, abs=1e-4)
    touched = set()
    for weight in weights_of(chains[0]).values():
        touched.add(weight.name.partition("[")[0])
        zeros = (weight.matrix() == 0).sum(1)
        if calibrated:  # Wanda's rate holds in every row
            due = 0.6 * weight.shape[1]
            assert (zeros - due).abs().max() <= 1 + 1e-6, weight.name
    for key, value in model.state_dict().items():
        assert key in touched or torch.equal(value, dense[key]), f"{key} stays dense"
