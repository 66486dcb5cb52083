"""Whole models in Triton's interpreter. Run by test_interpreted.py, in a process of its own."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from atp_core.errors import ModelError, UsageError
from atp_sparse_gpu import (
    SparseLinear,
    _accelerate,
    _choose,
    _timing,
    accelerate,
    pack,
    restore,
    runtime_info,
)

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def pruned_llama(dtype: torch.dtype = torch.float32, sparsity: float = 0.7) -> Any:
    """A random Llama of two blocks, its projections pruned, sizes that fit no tile."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=20,
        intermediate_size=42,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        attention_bias=True,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).to(dtype).eval()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            with torch.no_grad():
                module.weight[torch.rand(module.weight.shape) < sparsity] = 0
                if module.bias is not None:
                    module.bias.normal_()
    return model


def halved_layer() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(40, 20))
    with torch.no_grad():
        model[0].weight[:, ::2] = 0
    return model


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("keep_dense", [True, False])
@pytest.mark.parametrize("tokens", [1, 7, 30])
def test_logits_are_the_dense_ones(keep_dense: bool, tokens: int) -> None:
    model = pruned_llama()
    batch = torch.randint(0, 61, (1, tokens))
    with torch.no_grad():
        dense = model(batch).logits
        report = accelerate(model, keep_dense=keep_dense)
        assert report.sparse_layers == 14
        sparse = model(batch).logits
    torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-5)


def test_generation_gives_the_same_tokens() -> None:
    model = pruned_llama()
    prompt = torch.randint(0, 61, (1, 5))
    kept = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    dense = model.generate(prompt, **kept)
    accelerate(model)
    assert torch.equal(model.generate(prompt, **kept), dense)


@pytest.mark.parametrize("keep_dense", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restored_bit_for_bit(dtype: torch.dtype, keep_dense: bool) -> None:
    model = pruned_llama(dtype)
    modules = {name: id(module) for name, module in model.named_modules()}
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    before = bits(model)
    accelerate(model, keep_dense=keep_dense)
    restore(model)
    assert {name: id(module) for name, module in model.named_modules()} == modules
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters
    after = bits(model)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("keep_dense", [True, False])
def test_the_state_dict_is_the_dense_one(keep_dense: bool, tmp_path: Path) -> None:
    model = pruned_llama()
    before = bits(model)
    accelerate(model, keep_dense=keep_dense)
    after = model.state_dict()
    assert sorted(after) == sorted(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    model.save_pretrained(tmp_path)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_the_report_tells_of_every_layer() -> None:
    model = pruned_llama()
    report = accelerate(model, keep_dense=False)
    assert [layer.name for layer in report.layers] == [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, SparseLinear))
    ]
    [head] = [layer for layer in report.layers if layer.name == "lm_head"]
    assert head.kernel == "dense" and "tied" in head.reason and head.bytes == head.dense_bytes
    [down] = [layer for layer in report.layers if layer.name.endswith("1.mlp.down_proj")]
    assert down.shape == (20, 42) and down.sparsity == pytest.approx(0.7, abs=0.06)
    assert down.kernel == "bitmask to 16, unpack above"
    assert "interpreter" in down.reason
    # 4 bytes a value; 2 words of mask and 1 offset a row.
    assert down.bytes == round(20 * 42 * (1 - down.sparsity)) * 4 + 20 * (2 + 1) * 4
    assert report.to_json()["bytes"] == sum(layer.bytes for layer in report.layers)


class TestWhatStaysDense:
    """Each with its reason."""

    def reason(self, model: nn.Module) -> str:
        [layer] = [r for r in accelerate(model).layers if r.kernel == "dense"]
        return layer.reason

    def layer(self, sparsity: float = 0.8) -> nn.Linear:
        layer = nn.Linear(40, 40)
        with torch.no_grad():
            layer.weight[torch.rand(40, 40) < sparsity] = 0
        return layer

    def test_few_zeros(self) -> None:
        assert "below 0.4" in self.reason(nn.Sequential(self.layer(0.1)))

    def test_dtype(self) -> None:
        assert "float64" in self.reason(nn.Sequential(self.layer().double()))

    def test_hooks(self) -> None:
        layer = self.layer()
        layer.register_forward_hook(lambda *_: None)
        assert "hooks" in self.reason(nn.Sequential(layer))

    def test_subclass(self) -> None:
        attention = nn.MultiheadAttention(40, 4)
        assert "NonDynamicallyQuantizableLinear" in self.reason(attention)

    def test_parametrized(self) -> None:
        layer = nn.utils.parametrizations.weight_norm(self.layer())
        assert "ParametrizedLinear" in self.reason(nn.Sequential(layer))

    def test_meta(self) -> None:
        assert "meta" in self.reason(nn.Sequential(self.layer().to("meta")))

    def test_one_module_in_two_places(self) -> None:
        layer = self.layer()
        model = nn.ModuleList([nn.Sequential(layer), nn.Sequential(layer)])
        assert "several places" in self.reason(model)
        assert "several places" in self.reason(nn.Sequential(layer, layer))

    def test_a_weight_of_another_size(self) -> None:
        layer = self.layer()
        layer.weight = nn.Parameter(layer.weight[:20].clone())
        assert "[20, 40]" in self.reason(nn.Sequential(layer))


def test_a_single_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="put it into a module"):
        accelerate(nn.Linear(8, 8))


def test_what_goes_wrong_half_way_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = pruned_llama()
    before = bits(model)
    packed = []

    def fails(weight: torch.Tensor) -> Any:
        packed.append(weight)
        if len(packed) == 5:
            raise torch.OutOfMemoryError("no memory left")
        return pack(weight)

    monkeypatch.setattr(_accelerate, "pack", fails)
    with pytest.raises(torch.OutOfMemoryError):
        accelerate(model, keep_dense=False)
    assert not any(isinstance(module, SparseLinear) for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in bits(model).items())


def test_accelerating_twice_is_refused() -> None:
    model = pruned_llama()
    accelerate(model)
    with pytest.raises(ModelError, match="restore"):
        accelerate(model)


def test_sparsity_is_a_share() -> None:
    with pytest.raises(UsageError, match="share"):
        accelerate(nn.Sequential(nn.Linear(4, 4)), min_sparsity=40)


def test_weights_are_written_first() -> None:
    model = pruned_llama()
    other = copy.deepcopy(model)
    name = "model.layers.0.mlp.up_proj.weight"
    given = other.get_parameter(name).detach() * 2
    accelerate(model, weights={name: given})
    assert torch.equal(model.state_dict()[name], given)
    restore(model)
    with pytest.raises(ModelError, match="no parameter 'up'"):
        accelerate(model, weights={"up": given})
    with pytest.raises(ModelError, match=r"\[1, 1\]"):
        accelerate(model, weights={name: torch.zeros(1, 1)})


def test_loading_into_an_accelerated_model_is_refused() -> None:
    model = pruned_llama()
    state = bits(model)
    accelerate(model)
    with pytest.raises(RuntimeError, match="restore"):
        model.load_state_dict(state)


def test_casting() -> None:
    model = pruned_llama()
    wanted = bits(copy.deepcopy(model).to(torch.bfloat16))
    accelerate(model, keep_dense=False)
    with pytest.raises(ModelError, match="float64"):
        copy.deepcopy(model).double()
    model.to(torch.bfloat16)
    found = bits(model)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    restore(model)
    assert all(torch.equal(bits(model)[name], wanted[name]) for name in wanted)


def test_gradients_reach_the_input() -> None:
    layer = nn.Linear(40, 20)
    with torch.no_grad():
        layer.weight[torch.rand(20, 40) < 0.7] = 0
    model = nn.Sequential(layer)
    weight = layer.weight.detach().clone()
    accelerate(model, keep_dense=False)
    for tokens in (3, 20):
        x = torch.randn(2, tokens, 40, requires_grad=True)
        model(x).sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, weight.sum(0).expand_as(x))


def test_weight_is_there_for_who_asks() -> None:
    model = halved_layer()
    before = model[0].weight.detach().clone()
    accelerate(model, keep_dense=False)
    assert isinstance(model[0], SparseLinear)
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("keep_dense", [True, False])
def test_torch_compile_sees_one_graph(keep_dense: bool) -> None:
    model = pruned_llama().model.layers[0].mlp
    x = torch.randn(1, 3, 20)
    with torch.no_grad():
        dense = model(x)
        accelerate(model, keep_dense=keep_dense)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), dense)
        many = torch.randn(2, 20, 20)
        torch.testing.assert_close(compiled(many), model(many))


def test_torch_export_sees_the_operator() -> None:
    model = halved_layer()
    accelerate(model, keep_dense=False)
    exported = torch.export.export(model, (torch.randn(2, 40),))
    assert "atp_sparse_gpu.linear" in exported.graph_module.code


def test_info_says_that_this_is_no_gpu() -> None:
    found = runtime_info()
    assert "interpreter" in found["device"]
    assert found["bitmask"] == "available"


@pytest.mark.parametrize("shape", [(40,), (3, 40), (2, 0, 40), (2, 3, 40), (2, 3, 4, 40)])
@pytest.mark.parametrize("keep_dense", [True, False])
def test_any_leading_dimensions(shape: tuple[int, ...], keep_dense: bool) -> None:
    model = halved_layer()
    x = torch.randn(shape)
    dense = model(x)
    accelerate(model, keep_dense=keep_dense)
    torch.testing.assert_close(model(x), dense)


def test_inputs_of_another_size_are_refused() -> None:
    model = halved_layer()
    accelerate(model)
    with pytest.raises(ModelError, match="40 inputs"):
        model(torch.randn(3, 80))


def test_inputs_of_another_dtype() -> None:
    """Refused as a dense layer refuses them; cast under autocast."""
    model = halved_layer().to(torch.bfloat16)
    x = torch.randn(3, 40)
    expected = model(x.to(torch.bfloat16))
    accelerate(model)
    with pytest.raises(ModelError, match="cast or move"):
        model(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(x), expected, rtol=2e-2, atol=2e-2)


def test_it_prints_its_routes() -> None:
    model = halved_layer()
    accelerate(model)
    assert "routes=bitmask to 16, dense above" in repr(model)


# --- decisions, with clocks and 2:4 tensors that stand for a GPU's -------------------------------


def measured_by(
    monkeypatch: pytest.MonkeyPatch, cost: Callable[[Callable[[], object]], float]
) -> None:
    """Plans are measured as on a GPU, but by `cost` instead of the GPU's clock."""
    monkeypatch.setattr(_timing, "stopwatch", lambda device: cost)
    monkeypatch.setattr(
        _accelerate,
        "_plan",
        lambda candidates, formats, bias: _choose.measured_plan(
            candidates, _timing.times_of(formats, bias)
        ),
    )


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@pytest.mark.parametrize("keep_dense", [True, False])
def test_a_layer_that_dense_is_quicker_for_stays(
    monkeypatch: pytest.MonkeyPatch, keep_dense: bool
) -> None:
    """The interpreter is slow, and is measured to be."""
    measured_by(monkeypatch, seconds)
    model = halved_layer()
    [layer] = accelerate(model, keep_dense=keep_dense).layers
    assert layer.kernel == "dense" and layer.reason == "dense is as quick on this device"
    assert type(model[0]) is nn.Linear and model[0].weight.shape == (20, 40)


def test_a_layer_that_wins_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_by(monkeypatch, lambda call: 1 / seconds(call))
    model = halved_layer()
    x = torch.randn(3, 40)
    dense = model(x)
    [layer] = accelerate(model).layers
    assert layer.kernel == "bitmask to 16, dense above" and "× at 1" in layer.reason
    torch.testing.assert_close(model(x), dense)


def test_layers_of_one_kind_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []

    def plan(candidates: Any, *_: Any) -> Any:
        planned.append(candidates)
        return _choose.fixed_plan(candidates, "")

    monkeypatch.setattr(_accelerate, "_plan", plan)
    report = accelerate(pruned_llama(sparsity=0.7), min_sparsity=0.6)
    shapes = {(layer.shape, layer.sparsity) for layer in report.layers if layer.sparse}
    assert 3 <= len(planned) < len(shapes) == 14


@pytest.fixture
def tensors_2_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """2:4 tensors on the CPU: real ones, but no product takes them here."""
    cutlass = torch.sparse.SparseSemiStructuredTensorCUTLASS

    def convert(weight: torch.Tensor) -> torch.Tensor:
        packed, meta = sparse_semi_structured_from_dense_cutlass(weight)
        return cutlass(weight.shape, packed, meta, None, None, None)

    monkeypatch.setattr(_accelerate, "convert", convert)
    monkeypatch.setattr(_accelerate, "semi_structured_problem", lambda: None)


def mixed_layers() -> nn.Sequential:
    """2:4; half of the zeros but not 2:4; 2:4 but of a size that torch does not take."""
    sizes = [(64, 128), (64, 128), (60, 128)]
    model = nn.Sequential(*(nn.Linear(k, n) for n, k in sizes)).to(torch.bfloat16)
    with torch.no_grad():
        for layer in model:
            layer.weight.view(-1, 4)[:, ::2] = 0
        model[1].weight[:, :4] = 1
        model[0].weight[0, 0] = -0.0
    return model


@pytest.mark.filterwarnings("ignore:.*SparseSemiStructuredTensor:UserWarning")
@pytest.mark.usefixtures("tensors_2_4")
@pytest.mark.parametrize("keep_dense", [True, False])
def test_2_4_goes_to_what_has_the_pattern(keep_dense: bool) -> None:
    model = mixed_layers()
    before = bits(model)
    right, wrong, odd = accelerate(model, keep_dense=keep_dense).layers
    assert right.kernel == "2:4"
    rest = "dense" if keep_dense else "unpack"
    assert wrong.kernel == odd.kernel == f"bitmask to 16, {rest} above"
    # Half of the values, and two bits of metadata for each.
    assert right.bytes == 64 * 128 * (16 + 2) // 8 // 2
    after = bits(model)
    assert all(torch.equal(after[n].view(torch.int16), before[n].view(torch.int16)) for n in before)
    restore(model)
    assert all(
        torch.equal(p.view(torch.int16), before[n].view(torch.int16))
        for n, p in model.named_parameters()
    )


@pytest.mark.filterwarnings("ignore:.*SparseSemiStructuredTensor:UserWarning")
@pytest.mark.usefixtures("tensors_2_4")
def test_without_triton_the_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_accelerate, "triton_problem", lambda: "triton is not installed")
    right, wrong, odd = accelerate(mixed_layers()).layers
    assert right.kernel == "2:4" and wrong.kernel == odd.kernel == "dense"
    assert wrong.reason == "triton is not installed; its zeros are not 2:4"
    assert "60 × 128 is not a multiple" in odd.reason
