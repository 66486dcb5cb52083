"""Loading, saving, and what is said of checkpoints that are not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import atp_llm
from atp_core.errors import ModelError
from atp_core.records import LoadRequest, Source


def _load(source: str | Path, **request: Any) -> Any:
    return atp_llm.atp_load(Source(str(source)), LoadRequest(**request))


def _same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


# --- round trips --------------------------------------------------------------------------------


def test_directory_round_trip(
    byte_tokenizer: Callable[..., Any], llama_directory: Path, tmp_path: Path
) -> None:
    loaded = _load(llama_directory)
    with torch.no_grad():
        loaded.model.model.layers[0].mlp.up_proj.weight[:, ::2] = 0
    out = tmp_path / "out"
    files = atp_llm.atp_save(loaded, out)
    assert [file.name for file in files] == ["model.safetensors"]
    again = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert _same_weights(again, loaded.model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer("hello").input_ids == byte_tokenizer()("hello").input_ids
    assert (out / "generation_config.json").exists()
    assert json.loads((out / "config.json").read_text())["use_cache"] is True


def test_stories_round_trip(shared: Callable[[str], Path], tmp_path: Path) -> None:
    loaded = _load(shared("models/stories260k"))
    atp_llm.atp_save(loaded, tmp_path / "out")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(again(ids).logits, loaded.model(ids).logits)


def test_the_dtype_is_kept_or_as_asked(tiny_llama: Callable[..., Any], tmp_path: Path) -> None:
    source = tmp_path / "half"
    tiny_llama().to(torch.bfloat16).save_pretrained(source)
    loaded = _load(source)
    assert loaded.model.dtype == torch.bfloat16
    assert _load(source, meta=True).model.dtype == torch.bfloat16
    assert _load(source, dtype="float32").model.dtype == torch.float32
    atp_llm.atp_save(loaded, tmp_path / "out")
    kept = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.bfloat16}
    with pytest.raises(ModelError, match="no dtype for weights"):
        _load(source, dtype="int8")


def test_encoder_decoder_round_trip(tiny_t5: Callable[..., Any], tmp_path: Path) -> None:
    tiny_t5().save_pretrained(tmp_path / "t5")
    loaded = _load(tmp_path / "t5")
    assert type(loaded.model).__name__ == "T5ForConditionalGeneration"
    atp_llm.atp_save(loaded, tmp_path / "out")
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    assert _same_weights(again, loaded.model)


def test_experts_run_one_by_one_and_the_config_does_not_tell(
    tiny_mixtral: Callable[..., Any], tmp_path: Path
) -> None:
    tiny_mixtral().save_pretrained(tmp_path / "moe")
    loaded = _load(tmp_path / "moe")
    assert loaded.model.config._experts_implementation == "eager"
    atp_llm.atp_save(loaded, tmp_path / "out")
    assert "eager" not in (tmp_path / "out" / "config.json").read_text()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, loaded.model(ids).logits, atol=1e-5)


def test_shards(llama_directory: Path) -> None:
    loaded = _load(llama_directory)
    (llama_directory / "model.safetensors").unlink()
    loaded.model.save_pretrained(llama_directory, max_shard_size="20KB")
    shards = sorted(llama_directory.glob("*.safetensors"))
    assert len(shards) > 1
    assert _same_weights(_load(llama_directory).model, loaded.model)
    shards[0].unlink()
    with pytest.raises(ModelError, match=f"lacks 1 of {len(shards)} shards.*{shards[0].name}"):
        _load(llama_directory)


def test_meta_reads_no_weights(llama_directory: Path) -> None:
    (llama_directory / "model.safetensors").unlink()
    loaded = _load(llama_directory, meta=True)
    assert all(parameter.is_meta for parameter in loaded.model.parameters())
    assert not loaded.model.training


def test_provenance(llama_directory: Path) -> None:
    import hashlib

    facts = _load(llama_directory).provenance
    weights = (llama_directory / "model.safetensors").read_bytes()
    assert facts["weights"] == [
        {
            "file": "model.safetensors",
            "bytes": len(weights),
            "sha256": hashlib.sha256(weights).hexdigest(),
        }
    ]
    assert facts["transformers"] == transformers.__version__
    assert facts["format"] == "safetensors"
    assert len(facts["config_sha256"]) == 64
    json.dumps(facts)


def test_what_is_told_for_plans_and_cards(llama_directory: Path) -> None:
    loaded = _load(llama_directory, meta=True)
    assert loaded.defaults == {"samples": 32, "search_samples": 8, "seqlen": 64}
    assert loaded.card == {"library_name": "transformers", "pipeline_tag": "text-generation"}


def test_in_memory(tiny_llama: Callable[..., Any], in_memory: Callable[..., Any]) -> None:
    model = tiny_llama().train()
    loaded = in_memory(model)
    assert loaded.model is model
    assert not model.training
    empty = atp_llm.atp_load(Source("m", model=model), LoadRequest(meta=True))
    assert all(parameter.is_meta for parameter in empty.model.parameters())
    assert not next(model.parameters()).is_meta


# --- GGUF ---------------------------------------------------------------------------------------


@pytest.fixture
def gguf_path(tiny_llama: Callable[..., Any], tmp_path: Path) -> Path:
    """A tiny random Llama in GGUF, its matrices in Q8_0."""
    gguf = pytest.importorskip("gguf")
    model = tiny_llama(
        hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2
    )
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    path = tmp_path / "gguf" / "tiny.gguf"
    path.parent.mkdir()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(258)
    q8 = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in model.state_dict().items():
        module = name.removesuffix(".weight")
        for theirs, ours in names.items():
            module = module.replace(theirs, ours)
        module = (
            module.replace("model.layers", "blk")
            .replace("model.embed_tokens", "token_embd")
            .replace("model.norm", "output_norm")
            .replace("lm_head", "output")
        )
        array = tensor.numpy().astype(np.float32)
        if array.ndim == 2:
            writer.add_tensor(f"{module}.weight", gguf.quants.quantize(array, q8), raw_dtype=q8)
        else:
            writer.add_tensor(f"{module}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_is_dequantized_and_can_be_saved(
    tiny_llama: Callable[..., Any],
    gguf_path: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for source in (gguf_path, gguf_path.parent):
        loaded = _load(source)
        assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert capfd.readouterr().err == ""  # the only progress bar is core's
    assert loaded.provenance["format"] == "gguf"
    assert loaded.provenance["weights"][0]["file"] == "tiny.gguf"
    expected = tiny_llama(
        hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2
    )
    up = loaded.model.model.layers[1].mlp.up_proj.weight
    assert torch.allclose(up, expected.model.layers[1].mlp.up_proj.weight, atol=1e-3)
    atp_llm.atp_save(loaded, tmp_path / "out")
    assert "quantization" not in (tmp_path / "out" / "config.json").read_text()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert _same_weights(again, loaded.model)


def test_gguf_on_meta(gguf_path: Path) -> None:
    loaded = _load(gguf_path, meta=True)
    assert all(parameter.is_meta for parameter in loaded.model.parameters())
    assert len(loaded.model.model.layers) == 2


@pytest.mark.parametrize("kept", [0, 3, 20, 200, 0.5, 0.99])
def test_truncated_gguf(gguf_path: Path, kept: float) -> None:
    data = gguf_path.read_bytes()
    size = kept if isinstance(kept, int) else int(len(data) * kept)
    gguf_path.write_bytes(data[:size])
    with pytest.raises(ModelError, match=r"tiny\.gguf is (truncated|not a GGUF)"):
        _load(gguf_path)


def test_several_gguf_files(gguf_path: Path) -> None:
    shutil.copy(gguf_path, gguf_path.with_name("other.gguf"))
    with pytest.raises(ModelError, match="several GGUF files"):
        _load(gguf_path.parent)


# --- what is refused ----------------------------------------------------------------------------


def _truncate(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _garble(directory: Path) -> None:
    file = directory / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[8:12] = b"]]]]"
    file.write_bytes(data)


def _empty(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"")


def _no_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def _no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def _pickle(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _bad_json(directory: Path) -> None:
    (directory / "config.json").write_text("{", encoding="utf-8")


def _bad_index(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text("{}", encoding="utf-8")


def _missing_weight(directory: Path) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


def _wrong_shape(directory: Path) -> None:
    _change(directory, intermediate_size=48)


def _unknown_type(directory: Path) -> None:
    _change(directory, model_type="llamma", architectures=["LlammaForCausalLM"])


def _quantized(directory: Path) -> None:
    _change(directory, quantization_config={"quant_method": "gptq", "bits": 4})


def _quantized_activations(directory: Path) -> None:
    bits = {"num_bits": 8}
    groups = {"a": {"targets": ["Linear"], "weights": bits, "input_activations": bits}}
    method = "compressed-tensors"
    _change(directory, quantization_config={"quant_method": method, "config_groups": groups})


def _change(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"model\.safetensors is truncated: its header describes"),
        (_garble, r"the header of .*model\.safetensors is corrupt"),
        (_empty, r"model\.safetensors is truncated"),
        (_no_config, "expected a config.json"),
        (_no_weights, "has no weights: expected model.safetensors"),
        (_pickle, r"pytorch_model\.bin is a pickle.*save_pretrained"),
        (_bad_json, "cannot be loaded: .*config"),
        (_bad_index, "not a valid index of shards"),
        (_missing_weight, "lacks 1 weights .* model.layers.1.mlp.up_proj.weight"),
        (_wrong_shape, "cannot be loaded: "),
        (_unknown_type, "cannot be loaded: .*llamma"),
        (_quantized, r"is quantized \(gptq\).*cannot be pruned"),
        (_quantized_activations, r"is quantized \(compressed-tensors\).*cannot be pruned"),
    ],
)
def test_unfit_checkpoints(
    llama_directory: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(llama_directory)
    with pytest.raises(ModelError, match=message) as caught:
        _load(llama_directory)
    assert "\n" not in str(caught.value)


def test_other_models_and_missing_paths(llama_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no file or directory '\./nowhere'"):
        _load("./nowhere")
    text = tmp_path / "notes.txt"
    text.write_text("hello", encoding="utf-8")
    with pytest.raises(ModelError, match="expected a GGUF file"):
        _load(text)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    with pytest.raises(ModelError, match=r"\(vit\) is not a language model"):
        _load(tmp_path / "vit")


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("We couldn't connect to the hub\nmore")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(ModelError, match=r"org/name cannot be loaded: .*couldn't connect.*network"):
        _load("org/name")
