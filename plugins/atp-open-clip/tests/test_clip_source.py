"""Which sources are recognized."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest

import atp_open_clip
from atp_core._plugins import build_manager
from atp_core.records import Source


def confidence(source: Source) -> float:
    found = atp_open_clip.atp_recognize(source)
    return 0.0 if found is None else found.confidence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("open_clip:ViT-B-32/openai", 1.0),
        ("open_clip:nonsense", 1.0),
        ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", 1.0),
        ("embedded:digits-clip", 1.0),
        ("openai/clip-vit-base-patch32", 0.4),
        ("google/siglip2-base-patch16-224", 0.4),
        ("hf_hub:timm/vit_base_patch16_224", 0.0),
        ("embedded:smollm2-135m", 0.0),
        ("meta-llama/Llama-2-7b-hf", 0.0),
        ("CIDAS/clipseg-rd64-refined", 0.0),
        ("timm:vit_base_patch16_clip_224.openai", 0.0),
        ("ViT-B-32", 0.0),
    ],
)
def test_names(text: str, expected: float) -> None:
    assert confidence(Source(text)) == expected


def test_a_directory_in_open_clips_layout(directory: Path) -> None:
    assert confidence(Source(str(directory))) == 1.0
    assert build_manager().recognize(Source(str(directory))).plugin == "open-clip"
    (directory / "open_clip_config.json").write_text("{broken")
    assert confidence(Source(str(directory))) == 0.05


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "clip"}, 1.0),
        ({"model_type": "siglip"}, 1.0),
        ({"model_type": "siglip2"}, 1.0),
        ({"model_type": "llava"}, 0.0),
        ({"model_type": "clip_vision_model"}, 0.0),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, 0.0),
        ({"architecture": "vit_base_patch16_224"}, 0.0),
        (["not", "an", "object"], 0.0),
    ],
)
def test_a_directory_in_the_layout_of_transformers(
    tmp_path: Path, config: Any, expected: float
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert confidence(Source(str(tmp_path))) == expected


def test_files_and_other_directories(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert confidence(Source(str(tmp_path))) == 0.0
    assert confidence(Source(str(tmp_path / "model.safetensors"))) == 0.0


def test_models_in_memory(
    tiny_transformers: Callable[[str], Any], make_config: Callable[..., dict[str, Any]]
) -> None:
    model = open_clip.CLIP(**make_config())
    assert confidence(Source("x", model=model)) == 1.0
    assert confidence(Source("x", model=model.visual)) == 0.0, "a tower alone is no CLIP"

    class Mine(open_clip.CLIP):  # type: ignore[misc]
        pass

    assert confidence(Source("x", model=Mine(**make_config()))) == 1.0
    for kind in ("clip", "siglip", "siglip2"):
        assert confidence(Source("x", model=tiny_transformers(kind))) == 1.0
    assert confidence(Source("x", model=tiny_transformers("clip").vision_model)) == 0.0


def test_recognizing_imports_nothing_heavy(directory: Path) -> None:
    code = (
        "import sys, atp_open_clip\n"
        "from atp_core.records import Source\n"
        f"for text in ({str(directory)!r}, 'open_clip:ViT-B-32/openai', 'hf-hub:a/b'):\n"
        "    assert atp_open_clip.atp_recognize(Source(text)).confidence == 1.0\n"
        "heavy = {'torch', 'timm', 'open_clip', 'transformers', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
