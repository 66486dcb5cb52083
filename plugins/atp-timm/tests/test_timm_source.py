"""Which sources are recognized, from names and config files alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from torch import nn

import atp_timm
from atp_core.errors import UsageError
from atp_core.records import Source
from atp_timm._source import Named, parse


@pytest.mark.parametrize(
    "text",
    [
        "timm:vit_base_patch16_224",
        "timm:no_such_model",
        "timm:resnet18=weights.safetensors",
        "hf_hub:timm/resnet18.a1_in1k",
        "embedded:digits-vit",
        "embedded:efficientnet-lite0",
    ],
)
def test_names_of_ours(text: str) -> None:
    found = atp_timm.atp_recognize(Source(text))
    assert found is not None and found.confidence == 1.0 and found.reason


@pytest.mark.parametrize(
    "text",
    [
        "hf-hub:timm/vit_base_patch16_224",
        "embedded:smollm2-135m",
        "embedded:unheard-of",
        "meta-llama/Llama-2-7b-hf",
        "resnet18",
        "./not/there",
    ],
)
def test_names_of_others(text: str) -> None:
    assert atp_timm.atp_recognize(Source(text)) is None


@pytest.mark.parametrize(
    ("config", "ours"),
    [
        ({"architecture": "resnet18", "num_classes": 10}, True),
        ({"model_cfg": {"embed_dim": 512}}, False),
        ({"architecture": "ViT-B-32", "model_cfg": {}}, False),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, False),
        (["architecture"], False),
    ],
)
def test_directories_by_their_config(config: Any, ours: bool, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert (atp_timm.atp_recognize(Source(str(tmp_path))) is not None) is ours


def test_a_broken_config_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": ')
    assert atp_timm.atp_recognize(Source(str(tmp_path))) is None


def test_models_in_memory(tiny_vit: Callable[..., Any]) -> None:
    model = tiny_vit()
    found = atp_timm.atp_recognize(Source("x", model=model))
    assert found is not None and "VisionTransformer" in found.reason

    class Mine(type(model)):  # type: ignore[misc]
        pass

    model.__class__ = Mine
    assert atp_timm.atp_recognize(Source("x", model=model)) is not None
    assert atp_timm.atp_recognize(Source("x", model=nn.Linear(2, 2))) is None


def test_a_feature_extractor_is_no_classifier() -> None:
    extractor = timm.create_model("test_resnet", features_only=True)
    assert atp_timm.atp_recognize(Source("x", model=extractor)) is None


def test_forms_of_names() -> None:
    assert parse("resnet18.a1_in1k") == Named("resnet18.a1_in1k", "hub")
    assert parse("resnet18@random") == Named("resnet18", "random")
    assert parse("resnet18=a=b.safetensors") == Named("resnet18", "file", Path("a=b.safetensors"))
    for wrong in ("", "@random", "=x.safetensors", "resnet18=", "resnet18@main"):
        with pytest.raises(UsageError, match="names no model"):
            parse(wrong)


def test_recognition_imports_nothing_heavy() -> None:
    code = (
        "import sys, atp_timm\n"
        "from atp_core.records import Source\n"
        "assert atp_timm.atp_recognize(Source('timm:resnet18')) is not None\n"
        "heavy = {'torch', 'timm', 'torchvision', 'PIL', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
