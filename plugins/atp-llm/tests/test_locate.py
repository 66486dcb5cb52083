"""What `locate` finds in well-known architectures, and how each weight is stored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from atp_core.errors import ModelError
from atp_core.records import Chain, PrunableWeight
from atp_llm._locate import locate

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from _consumed import check_forward
from _tiny_configs import Entry, build, run


def _located(kind: Any, model_type: str) -> list[Chain]:
    return locate(build(Entry(kind, model_type, ""), "meta"))


def _weights(chains: list[Chain]) -> dict[str, PrunableWeight]:
    return {w.name: w for chain in chains for block in chain.blocks for w in block.weights}


def test_llama_blocks_and_weights() -> None:
    (chain,) = _located("causal", "llama")
    assert chain.name == "decoder"
    assert [block.name for block in chain.blocks] == ["model.layers.0", "model.layers.1"]
    assert {w.name: w.shape for w in chain.blocks[1].weights} == {
        "model.layers.1.self_attn.q_proj.weight": (32, 32),
        "model.layers.1.self_attn.k_proj.weight": (16, 32),
        "model.layers.1.self_attn.v_proj.weight": (16, 32),
        "model.layers.1.self_attn.o_proj.weight": (32, 32),
        "model.layers.1.mlp.gate_proj.weight": (48, 32),
        "model.layers.1.mlp.up_proj.weight": (48, 32),
        "model.layers.1.mlp.down_proj.weight": (32, 48),
    }
    assert chain.dense == {
        "model.embed_tokens": "embedding",
        "model.norm": "normalization",
        "lm_head": "output layer",
        "model.layers.*.input_layernorm": "normalization",
        "model.layers.*.post_attention_layernorm": "normalization",
    }


def test_gpt2_stores_in_by_out() -> None:
    weights = _weights(_located("causal", "gpt2"))
    fused = weights["transformer.h.0.attn.c_attn.weight"]
    assert fused.transposed
    assert fused.shape == (96, 32)
    assert tuple(fused.tensor.shape) == (32, 96)


@pytest.mark.parametrize(
    ("model_type", "name", "transposed", "shape"),
    [
        ("mixtral", "model.layers.0.mlp.experts.gate_up_proj[3]", False, (96, 32)),
        ("mixtral", "model.layers.0.mlp.experts.down_proj[0]", False, (32, 48)),
        ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj[3]", True, (96, 32)),
        ("gpt_oss", "model.layers.0.mlp.experts.down_proj[0]", True, (32, 48)),
        # No flag says so; the side that is as wide as the residual stream does.
        ("llama4_text", "model.layers.1.feed_forward.experts.gate_up_proj[3]", True, (96, 32)),
        ("llama4_text", "model.layers.1.feed_forward.experts.down_proj[0]", True, (32, 48)),
        ("jetmoe", "model.layers.0.mlp.input_linear.weight[1]", False, (96, 32)),
        ("dbrx", "transformer.blocks.0.ffn.experts.mlp.w1[2]", False, (48, 32)),
        ("dbrx", "transformer.blocks.0.ffn.experts.mlp.w2[2]", True, (32, 48)),
    ],
)
def test_fused_experts(
    model_type: str, name: str, transposed: bool, shape: tuple[int, int]
) -> None:
    weights = _weights(_located("causal", model_type))
    weight = weights[name]
    assert weight.conditional
    assert weight.transposed is transposed
    assert weight.shape == shape


def test_routers_stay_dense_and_shared_experts_are_unconditional() -> None:
    (chain,) = _located("causal", "deepseek_v3")
    assert chain.dense["model.layers.*.mlp.gate"] == "router: it picks experts"
    weights = _weights([chain])
    assert not weights["model.layers.1.mlp.shared_experts.up_proj.weight"].conditional
    assert weights["model.layers.1.mlp.experts.gate_up_proj[0]"].conditional


def test_flattened_experts_are_views_of_the_model() -> None:
    model = build(Entry("causal", "dbrx", ""))
    weights = _weights(locate(model))
    mlp: Any = model.get_submodule("transformer.blocks.1.ffn.experts.mlp")
    weights["transformer.blocks.1.ffn.experts.mlp.w2[1]"].matrix().fill_(7)
    assert (mlp.w2[48:96] == 7).all()
    assert not (mlp.w2[:48] == 7).any()
    assert not (mlp.w2[96:] == 7).any()


def test_block_diagonal_projections_are_split_by_group() -> None:
    weights = _weights(_located("causal", "deepseek_v4"))
    groups = [w for name, w in weights.items() if "layers.0.self_attn.o_a_proj" in name]
    assert len(groups) > 1
    assert [w.rows for w in groups if w.rows] == [
        (i * w.shape[0], (i + 1) * w.shape[0]) for i, w in enumerate(groups)
    ]


def test_encoder_and_decoder_are_two_chains() -> None:
    encoder, decoder = _located("seq2seq", "t5")
    assert (encoder.name, decoder.name) == ("encoder", "decoder")
    assert [block.name for block in encoder.blocks] == ["encoder.block.0", "encoder.block.1"]
    assert any("EncDecAttention" in w.name for w in decoder.blocks[0].weights)


def test_a_decoder_alone_keeps_cross_attention_dense() -> None:
    (chain,) = _located("causal", "bart")
    assert not [name for name in _weights([chain]) if "encoder_attn" in name]
    assert "cross-attention" in chain.dense["model.decoder.layers.*.encoder_attn"]


def test_other_towers_are_named_as_dense() -> None:
    (chain,) = _located("causal", "gemma3")
    assert all(block.name.startswith("model.language_model") for block in chain.blocks)
    assert "another model" in chain.dense["model.vision_tower"]


def test_shared_weights_belong_to_the_first_block() -> None:
    (chain,) = _located("causal", "zamba")
    shared = [
        block.name
        for block in chain.blocks
        if any("shared_transf" in weight.name for weight in block.weights)
    ]
    assert shared == ["model.layers.1"]


def test_halves_of_a_layer_in_two_lists_run_in_turn() -> None:
    (chain,) = _located("causal", "xlm")
    assert [block.name for block in chain.blocks] == [
        "transformer.attentions.0",
        "transformer.ffns.0",
        "transformer.attentions.1",
        "transformer.ffns.1",
    ]


class _Loop(nn.Module):
    """The same layer twice in its list, as in ALBERT."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        self.layers = nn.ModuleList([layer, layer])


def test_a_repeated_layer_is_one_block() -> None:
    (chain,) = locate(_Loop())
    assert [block.name for block in chain.blocks] == ["layers.0"]


class _Packed(nn.Module):
    """nn.MultiheadAttention keeps three projections in one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.MultiheadAttention(8, 2))])


def test_packed_projections_are_three_weights() -> None:
    (chain,) = locate(_Packed())
    assert [w.shape for w in chain.blocks[0].weights] == [(8, 8)] * 4


def test_a_weight_tied_to_an_embedding_stays_dense() -> None:
    model = _Loop()
    model.embedding = nn.Embedding(8, 4)
    first: Any = model.layers[0]
    first[0].weight = model.embedding.weight
    (chain,) = locate(model)
    assert [w.name for w in chain.blocks[0].weights] == ["layers.0.2.weight"]
    assert chain.dense["layers.*.0.weight"] == "tied to an embedding"


def _layer() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


def test_layers_in_a_sequence_between_embedding_and_head() -> None:
    head = nn.ModuleDict({"norm": nn.LayerNorm(4), "out": nn.Linear(4, 16)})
    (chain,) = locate(nn.Sequential(nn.Embedding(16, 4), _layer(), _layer(), head))
    assert [block.name for block in chain.blocks] == ["1", "2"]
    assert set(chain.dense) == {"0", "3"}


class _Wrapper(nn.Module):
    """A language model under a name that transformers does not look for, and what goes with it."""

    def __init__(self) -> None:
        super().__init__()
        self.visual_tower = nn.ModuleList([_layer(), _layer()])
        self.llm = nn.Module()
        self.llm.blocks = nn.ModuleList([_layer(), _layer()])
        self.llm.lm_head = nn.Linear(4, 16)
        self.mtp = nn.ModuleList([_layer()])


def test_a_wrapped_language_model_without_its_companions() -> None:
    (chain,) = locate(_Wrapper())
    assert [block.name for block in chain.blocks] == ["llm.blocks.0", "llm.blocks.1"]
    assert {"visual_tower", "mtp", "llm.lm_head"} <= set(chain.dense)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral", "dbrx", "xlnet"])
def test_the_check_of_this_suite_notices_a_wrong_orientation(model_type: str) -> None:
    """`check_forward`, which the other tests rely on, is not blind."""
    torch.manual_seed(0)
    entry = Entry("causal", model_type, "")
    model = build(entry)
    chains = locate(model)
    assert check_forward(chains, lambda: run(entry, model)).problem(chains) is None
    for block in chains[0].blocks:
        for weight in block.weights:
            weight.transposed = not weight.transposed
    assert check_forward(chains, lambda: run(entry, model)).problem(chains) is not None


def test_the_check_of_this_suite_notices_a_wrong_order() -> None:
    entry = Entry("causal", "llama", "")
    model = build(entry)
    (chain,) = locate(model)
    wrong = [Chain("decoder", list(reversed(chain.blocks)))]
    assert "located as" in str(check_forward(wrong, lambda: run(entry, model)).problem(wrong))


def test_no_layers_is_an_error_that_names_the_class() -> None:
    with pytest.raises(ModelError, match="Linear"):
        locate(nn.Linear(4, 4))


def test_nothing_changes() -> None:
    model = build(Entry("causal", "qwen3_moe", ""))
    before = {name: (value, value.clone()) for name, value in model.state_dict().items()}
    locate(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], copy) for name, (_, copy) in before.items())
    assert not any(module._forward_pre_hooks for module in model.modules())
