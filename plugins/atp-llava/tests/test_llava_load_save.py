"""Loading, saving, and what is said of checkpoints that are not fit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import atp_llava
from atp_core.data import open_image
from atp_core.errors import ModelError
from atp_core.records import DataRequest, LoadRequest, Source

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from _llava_tiny import KINDS, in_memory, tiny, write_questions


def _load(source: str | Path, **request: Any) -> Any:
    return atp_llava.atp_load(Source(str(source)), LoadRequest(**request))


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    """The saved model loads without us and gives the same outputs from the same image."""
    model, processor = tiny(kind)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = _load(tmp_path / "model")
    weight = atp_llava.atp_locate(loaded)[1].blocks[0].weights[0]
    weight.matrix()[:, ::2] = 0
    files = atp_llava.atp_save(loaded, tmp_path / "out")
    assert [file.name for file in files] == ["model.safetensors"]
    again = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    words = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    assert type(again) is type(model)
    assert words.chat_template == processor.chat_template
    write_questions(tmp_path, 1, sizes=[(40, 31)])
    image = open_image(tmp_path / "images" / "000.png")
    texts = ["<image> what is this ?"]
    mine = loaded.processor(text=texts, images=[image], return_tensors="pt")
    theirs = words(text=texts, images=[image], return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(again(**theirs).logits, loaded.model(**mine).logits)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    zeros = sum(int((tensor == 0).all(0).sum()) for tensor in saved.values() if tensor.dim() == 2)
    assert zeros >= weight.shape[1] // 2


def test_the_dtype_is_kept_or_as_asked(tmp_path: Path) -> None:
    model, processor = tiny()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    processor.save_pretrained(tmp_path / "half")
    loaded = _load(tmp_path / "half")
    assert loaded.model.dtype == torch.bfloat16
    assert _load(tmp_path / "half", meta=True).model.dtype == torch.bfloat16
    assert _load(tmp_path / "half", dtype="float32").model.dtype == torch.float32
    atp_llava.atp_save(loaded, tmp_path / "out")
    kept = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.bfloat16}
    with pytest.raises(ModelError, match="no dtype for weights"):
        _load(tmp_path / "half", dtype="int8")


def test_half_precision_runs(tmp_path: Path) -> None:
    """Images come in float32 and are given to the model in its own dtype."""
    file = write_questions(tmp_path, 8)
    model, processor = tiny()
    loaded = in_memory(model.to(torch.bfloat16), processor)
    data = DataRequest(calibration=str(file), samples=4, search_samples=4)
    calibration = atp_llava.atp_calibrate(loaded, data)
    with torch.inference_mode():
        assert calibration.forward(calibration.batches[0]).logits.dtype == torch.bfloat16
    found = atp_llava.atp_evaluate(loaded, data, "search", None)
    assert found.metrics[0].value > 0


def test_meta_reads_no_weights(llava_directory: Path) -> None:
    (llava_directory / "model.safetensors").unlink()
    loaded = _load(llava_directory, meta=True)
    assert all(parameter.is_meta for parameter in loaded.model.parameters())
    assert not loaded.model.training
    assert [len(chain.blocks) for chain in atp_llava.atp_locate(loaded)] == [2, 4]


def test_facts_for_card_and_sidecar(llava_directory: Path) -> None:
    loaded = _load(llava_directory)
    assert loaded.card["library_name"] == "transformers"
    assert loaded.card["pipeline_tag"] == "image-text-to-text"
    assert loaded.defaults == {"samples": 64, "search_samples": 64}
    facts = loaded.provenance
    assert facts["architecture"] == "LlavaForConditionalGeneration"
    assert facts["dtype"] == "float32"
    [weights] = facts["weights"]
    assert weights["file"] == "model.safetensors" and len(weights["sha256"]) == 64


def test_shards(llava_directory: Path) -> None:
    loaded = _load(llava_directory)
    (llava_directory / "model.safetensors").unlink()
    loaded.model.save_pretrained(llava_directory, max_shard_size="60KB")
    shards = sorted(llava_directory.glob("*.safetensors"))
    assert len(shards) > 1
    again = _load(llava_directory).model.state_dict()
    assert all(torch.equal(again[k], v) for k, v in loaded.model.state_dict().items())
    shards[0].unlink()
    with pytest.raises(ModelError, match=f"lacks 1 of {len(shards)} shards.*{shards[0].name}"):
        _load(llava_directory)


def test_in_memory() -> None:
    model, processor = tiny()
    loaded = in_memory(model, processor)
    assert loaded.model is model and loaded.processor is processor
    source = Source("model", model=model, processor=processor)
    meta = atp_llava.atp_load(source, LoadRequest(meta=True))
    assert all(parameter.is_meta for parameter in meta.model.parameters())
    assert not any(parameter.is_meta for parameter in model.parameters())
    for part in (None, processor.tokenizer):
        without = in_memory(model, part)
        with pytest.raises(ModelError, match="pass processor=PROCESSOR"):
            atp_llava.atp_evaluate(without, DataRequest(report=__file__), "report", None)


def test_truncated_and_foreign_weights(llava_directory: Path) -> None:
    file = llava_directory / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="truncated: its header describes"):
        _load(llava_directory)
    file.write_bytes(whole[:4])
    with pytest.raises(ModelError, match="truncated or no safetensors"):
        _load(llava_directory)
    file.write_bytes((8).to_bytes(8, "little") + b"notjson!")
    with pytest.raises(ModelError, match=r"header of .* is corrupt"):
        _load(llava_directory)
    file.unlink()
    with pytest.raises(ModelError, match="has no weights"):
        _load(llava_directory)
    (llava_directory / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle.*ForImageTextToText"):
        _load(llava_directory)


def test_missing_weights_are_not_made_up(llava_directory: Path) -> None:
    file = llava_directory / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "projector" in name)
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of Llava.*multi_modal_projector"):
        _load(llava_directory)


def test_a_missing_processor(llava_directory: Path) -> None:
    (llava_directory / "processor_config.json").unlink()
    with pytest.raises(ModelError, match=r"no processor of images and text.*processor_config"):
        _load(llava_directory)
    assert _load(llava_directory, meta=True).processor is None


def test_quantized_and_unknown(llava_directory: Path, tmp_path: Path) -> None:
    file = llava_directory / "config.json"
    config = json.loads(file.read_text())
    quantized = {"quant_method": "gptq", "bits": 4}
    file.write_text(json.dumps({**config, "quantization_config": quantized}))
    with pytest.raises(ModelError, match=r"is quantized \(gptq\)"):
        _load(llava_directory)
    file.write_text(json.dumps({**config, "model_type": "unheard-of"}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        _load(llava_directory)
    with pytest.raises(ModelError, match=r"expected a config\.json"):
        _load(tmp_path)
    with pytest.raises(ModelError, match="no directory 'nowhere'"):
        _load("nowhere")
