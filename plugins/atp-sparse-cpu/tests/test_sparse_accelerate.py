"""`accelerate` and `restore` on whole models, and layers that must stay dense."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import atp_sparse_cpu
from atp_core.errors import ModelError, UsageError
from atp_sparse_cpu import AccelerationReport, SparseLinear, _measured, _tune, accelerate, restore
from atp_sparse_cpu._plan import BUCKETS
from atp_sparse_cpu._plan import Path as Way

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from _sparse_models import prune

pytestmark = pytest.mark.usefixtures("kernels")


def reasons(report: AccelerationReport) -> dict[str, str]:
    return {layer.name: layer.reason for layer in report.layers}


def packed(report: AccelerationReport) -> set[str]:
    return {layer.name for layer in report.layers if layer.sparse}


def mlp(width: int = 64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
    model = nn.Sequential(*layers)
    prune(model)
    return model


def llama(dtype: torch.dtype = torch.float32) -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=160, hidden_size=64, intermediate_size=112, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    return prune(transformers.LlamaForCausalLM(config)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llama_says_the_same(dtype: torch.dtype) -> None:
    model, ids = llama(dtype), torch.arange(3, 15)[None]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    settings = {"max_new_tokens": 20, "do_sample": False}
    with torch.inference_mode():
        logits, text = model(ids).logits, model.generate(ids, **settings)
    report = accelerate(model, tune=False)
    names = {layer.name for layer in report.layers}
    assert names - packed(report) == {"lm_head"} and len(names) == 15
    assert report.bytes < report.dense_bytes
    with torch.inference_mode():
        close = 1e-4 if dtype == torch.float32 else 0.05  # a few roundings of bfloat16
        torch.testing.assert_close(model(ids).logits, logits, rtol=close, atol=2 * close)
        if dtype == torch.float32:
            assert torch.equal(model.generate(ids, **settings), text)
    now = model.state_dict()
    assert now.keys() == state.keys() and all(torch.equal(now[k], state[k]) for k in state)
    assert restore(model) == 14
    assert dict(model.named_modules()) == modules
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, logits)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_llama_in_int8_stays_near() -> None:
    model, ids = llama(), torch.arange(3, 15)[None]
    with torch.inference_mode():
        logits = model(ids).logits
        report = accelerate(model, format="int8", tune=False)
        assert {way for layer in report.layers for way in layer.ways.values()} == {"int8", "unpack"}
        off = (model(ids).logits - logits).norm() / logits.norm()
    assert 0 < off < 0.05


def test_llama_saves_and_loads_as_before(tmp_path: Path) -> None:
    import transformers

    model, ids = llama(), torch.arange(3, 15)[None]
    with torch.inference_mode():
        logits = model(ids).logits
        accelerate(model, tune=False)
    model.save_pretrained(tmp_path)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, logits)


def test_llama_compiles() -> None:
    model, ids = llama(), torch.arange(3, 15)[None]
    accelerate(model, tune=False)
    compiled = torch.compile(model, backend="aot_eager")
    with torch.inference_mode():
        torch.testing.assert_close(compiled(ids).logits, model(ids).logits)


def test_gpt2_with_transposed_weights() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=100, n_positions=32)
    model = prune(transformers.GPT2LMHeadModel(config))
    ids, state = torch.arange(9)[None], {k: v.clone() for k, v in model.state_dict().items()}
    with torch.inference_mode():
        logits = model(ids).logits
        report = accelerate(model, tune=False)
        torch.testing.assert_close(model(ids).logits, logits, rtol=1e-4, atol=1e-4)
    assert len(packed(report)) == 8
    assert reasons(report)["lm_head"] == "its weight is shared with another module"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    restore(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, logits)


def test_vision_transformer_of_timm() -> None:
    import timm

    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    model = prune(timm.create_model("vit_tiny_patch16_224", **sizes))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        logits = model(images)
        report = accelerate(model, tune=False)
        torch.testing.assert_close(model(images), logits, rtol=1e-4, atol=1e-4)
    assert len(packed(report)) == 8


def test_clip_of_open_clip_lists_attention_as_dense() -> None:
    import open_clip

    torch.manual_seed(0)
    tower = {"layers": 2, "width": 64}
    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg={**tower, "image_size": 32, "patch_size": 8, "head_width": 32},
        text_cfg={**tower, "context_length": 16, "vocab_size": 100, "heads": 2},
    )
    prune(model)
    images, texts = torch.randn(2, 3, 32, 32), torch.randint(1, 100, (2, 16))
    with torch.inference_mode():
        expected = model(images, texts)[:2]
        report = accelerate(model, tune=False)
        for got, wanted in zip(model(images, texts)[:2], expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    why = reasons(report)
    assert len(packed(report)) == 8 and all("mlp" in name for name in packed(report))
    for projection in ("in_proj_weight", "out_proj"):
        name = f"visual.transformer.resblocks.0.attn.{projection}"
        assert "MultiheadAttention" in why[name]


# --- layers that stay dense, or are shared --------------------------------------------------------


def test_each_obstacle_is_told() -> None:
    class Own(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    def layer(kind: type[nn.Linear] = nn.Linear) -> nn.Linear:
        made = kind(64, 64)
        made.weight.data[torch.rand(64, 64) < 0.8] = 0
        return made

    model = nn.ModuleDict(
        {
            "fine": layer(),
            "own": layer(Own),
            "replaced": layer(),
            "tied": layer(),
            "computed": nn.utils.parametrizations.weight_norm(layer()),
            "meta": nn.Linear(8, 8, device="meta"),
            "wide": layer().double(),
            "full": nn.Linear(8, 8),
            "left": layer(),
            "mixed": layer(),
            "encoder": prune(nn.TransformerEncoderLayer(64, 2, 64)),
        }
    )
    model["replaced"].forward = lambda x: x
    model["twin"] = nn.Linear(64, 64)
    model["twin"].weight = model["tied"].weight
    model["mixed"].bias.data = model["mixed"].bias.data.double()
    report = accelerate(model, tune=False, skip=["left"])
    why = reasons(report)
    assert packed(report) == {"fine"}
    assert why["own"] == "Own computes in a way of its own"
    assert why["replaced"] == "its forward was replaced"
    assert why["tied"] == why["twin"] == "its weight is shared with another module"
    assert why["computed"] == "its weight is computed anew at every call"
    assert why["meta"] == "its weight is on meta"
    assert why["wide"] == "its weight is float64"
    assert why["full"] == "sparsity 0.000 is below 0.4"
    assert why["left"] == "it was to be skipped"
    assert why["mixed"] == "its bias is of another type or device"
    assert "TransformerEncoderLayer reads its weight" in why["encoder.linear1"]
    assert "MultiheadAttention" in why["encoder.self_attn.in_proj_weight"]
    again = reasons(accelerate(model, tune=False))
    assert again["fine"] == "it is packed already"


def test_shared_modules_stay_shared() -> None:
    model = mlp()
    both = nn.ModuleDict({"a": model, "b": nn.Sequential(model[0])})
    original = model[0]
    report = accelerate(both, tune=False)
    assert both["a"][0] is both["b"][0] and isinstance(both["a"][0], SparseLinear)
    assert len(report.layers) == 2
    assert restore(both) == 2
    assert both["a"][0] is both["b"][0] is original


def test_hooks_and_modes_stay() -> None:
    model, seen = mlp(), []
    handle = model[0].register_forward_hook(lambda module, args, output: seen.append(module))
    accelerate(model, tune=False)
    assert not model[0].training
    x = torch.randn(1, 64)
    model(x)
    assert seen == [model[0]] and isinstance(seen[0], SparseLinear)
    handle.remove()
    model(x)
    assert len(seen) == 1
    later = model[0].register_forward_hook(lambda module, args, output: seen.append(module))
    restore(model)
    model(x)
    assert len(seen) == 2 and isinstance(seen[1], nn.Linear)
    later.remove()


def test_memory_of_dense_weights_is_let_go() -> None:
    model = mlp()
    parameter = model[0].weight
    accelerate(model, tune=False)
    assert parameter.numel() == 0
    restore(model)
    assert model[0].weight is parameter and parameter.shape == (128, 64)


def test_a_failure_leaves_the_model_as_it_was() -> None:
    model = mlp()
    model[2].weight.data[0, 0] = torch.nan
    before = list(model.children())
    weights = [layer.weight.detach().clone() for layer in (model[0], model[2])]
    with pytest.raises(ModelError, match="NaN"):
        accelerate(model, format="int8", tune=False)
    assert list(model.children()) == before
    assert torch.equal(model[0].weight, weights[0])
    assert torch.equal(model[2].weight.nan_to_num(), weights[1].nan_to_num())


def test_arguments_are_checked() -> None:
    model: Any = mlp()
    with pytest.raises(UsageError, match="min_sparsity is 70"):
        accelerate(model, min_sparsity=70)
    with pytest.raises(UsageError, match="format is 'int4'"):
        accelerate(model, format="int4")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="keep_dense is 'always'"):
        accelerate(model, keep_dense="always")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="skip names 'head'"):
        accelerate(model, skip=["head"])
    with pytest.raises(ModelError, match="from_linear"):
        accelerate(model[0])
    assert restore(model) == 0


# --- choosing ----------------------------------------------------------------------------------


def ratios(packed_ways: list[float]) -> list[dict[str, float]]:
    return [{"FP32": ratio, "UNPACK": ratio / 2} for ratio in packed_ways]


def test_choice_is_never_slower_unless_memory_comes_first() -> None:
    speeds = [3.0, 2.0, 1.5, 1.2, 1.1, 1.0, 0.98, 0.9, 0.5]
    kept = _tune.choose(ratios(speeds), keep_dense=True)
    # Where the dense weight is kept for some, it is used wherever a packed one gains little.
    assert kept.plan == (Way.FP32,) * 5 + (Way.DENSE,) * 4
    assert kept.speedups == (*speeds[:5], 1.0, 1.0, 1.0, 1.0)
    none_slow = _tune.choose(ratios([2.0] * 8 + [0.985]), keep_dense=True)
    assert none_slow.plan == (Way.FP32,) * 9
    saving = _tune.choose(ratios(speeds), keep_dense=False)
    assert saving.plan == (Way.FP32,) * 9 and saving.speedups[-1] == 0.5
    assert _tune.choose(ratios([0.99] * 9), keep_dense=False).plan is None


def test_measured_choices_are_kept_on_disk(_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measured, "_known", {})
    monkeypatch.setattr(_measured, "_read", False)
    model = mlp(256)
    first = accelerate(model)
    assert all(layer.ways.keys() == layer.speedups.keys() for layer in first.layers if layer.ways)
    restore(model)
    # as in a new process: from the file, without measuring
    monkeypatch.setattr(_measured, "_known", {})
    monkeypatch.setattr(_measured, "_read", False)
    monkeypatch.setattr(_tune, "_race", None)
    assert accelerate(model) == first
    restore(model)
    [file] = (_cache / "sparse-cpu").glob("measured-*.json")
    for content in ("", "[]", '{"x": 3}'):
        file.write_text(content, encoding="utf-8")
        monkeypatch.setattr(_measured, "_known", {})
        monkeypatch.setattr(_measured, "_read", False)
        assert _measured.recall("x", len(BUCKETS)) is None


def test_a_kept_dense_weight_is_used_and_restored() -> None:
    model = mlp()
    dense = model[0].weight.data_ptr()
    original = model[0]
    layer = SparseLinear.from_linear(model[0])
    kept = SparseLinear(
        layer.packed, model[0].bias, torch.float32, (int(Way.DENSE),) * 9, model[0].weight.detach()
    )
    kept.stand_for(original)
    x = torch.randn(4, 64)
    expected = nn.functional.linear(x, original.weight, original.bias)
    assert torch.equal(kept(x), expected)
    assert kept.bytes == layer.bytes + original.weight.nbytes
    assert kept.release() is original and original.weight.data_ptr() == dense


def test_readme_names_are_there() -> None:
    assert set(atp_sparse_cpu.__all__) <= set(dir(atp_sparse_cpu)) | set(atp_sparse_cpu._HOMES)
