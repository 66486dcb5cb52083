"""Which sources are recognized, and that no other plugin claims them as surely."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import atp_llava
from atp_core._plugins import build_manager
from atp_core.records import Source

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from _llava_tiny import in_memory, tiny

LLAVA = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}
TOWER = {"vision_config": {"model_type": "clip_vision_model"}}


def _config(directory: Path, config: Any) -> str:
    text = config if isinstance(config, str) else json.dumps(config)
    (directory / "config.json").write_text(text)
    return str(directory)


@pytest.mark.parametrize(
    "config",
    [
        {**LLAVA, **TOWER},
        {"model_type": "llava_next", **TOWER},
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", **TOWER},
        {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", **TOWER},
        {"architectures": ["Emu3ForConditionalGeneration"], "vq_config": {"codebook_size": 8}},
        {"architectures": ["GitForCausalLM"], "model_type": "git", **TOWER},
    ],
)
def test_configs_with_a_vision_tower(tmp_path: Path, config: dict[str, Any]) -> None:
    source = Source(_config(tmp_path, config))
    found = atp_llava.atp_recognize(source)
    assert found is not None and found.confidence == 1.0
    assert build_manager().recognize(source).plugin == "llava"


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"},
        {"architectures": ["FuyuForCausalLM"], "model_type": "fuyu"},
        {"architectures": ["CLIPModel"], "model_type": "clip", **TOWER},
        {**LLAVA, "architectures": ["SomethingElse"], **TOWER},
        {"model_type": "llava"},
        [],
        "{",
    ],
)
def test_other_configs(tmp_path: Path, config: Any) -> None:
    assert atp_llava.atp_recognize(Source(_config(tmp_path, config))) is None


def test_embedded_and_hub_names() -> None:
    embedded = atp_llava.atp_recognize(Source("embedded:digits-llava"))
    assert embedded is not None and embedded.confidence == 1.0
    assert build_manager().recognize(Source("embedded:digits-llava")).plugin == "llava"
    for name in ("llava-hf/llava-1.5-7b-hf", "Qwen/Qwen2-VL-2B-Instruct", "a/Llama-3.2-11B-Vision"):
        assert build_manager().recognize(Source(name)).plugin == "llava"
    for name in ("meta-llama/Llama-2-7b-hf", "Qwen/Qwen2-0.5B"):
        assert build_manager().recognize(Source(name)).plugin != "llava"
        assert atp_llava.atp_recognize(Source(name)) is not None  # for --plugin llava
    assert atp_llava.atp_recognize(Source("embedded:other")) is None
    assert atp_llava.atp_recognize(Source("no/such/name/at/all")) is None


def test_models_in_memory() -> None:
    model, processor = tiny()
    source = Source("model", model=model, processor=processor)
    found = atp_llava.atp_recognize(source)
    assert found is not None and "LlavaForConditionalGeneration" in found.reason
    assert build_manager().recognize(source).plugin == "llava"
    assert in_memory(model, processor).model is model
    assert atp_llava.atp_recognize(Source("text", model=model.model.language_model)) is None
    assert atp_llava.atp_recognize(Source("object", model=object())) is None


def test_recognizing_imports_no_torch(tmp_path: Path) -> None:
    directory = _config(tmp_path, {**LLAVA, **TOWER})
    code = (
        "import sys, atp_llava\n"
        "from atp_core.records import Source\n"
        f"assert atp_llava.atp_recognize(Source({directory!r})).confidence == 1.0\n"
        "heavy = {'torch', 'transformers', 'PIL', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
