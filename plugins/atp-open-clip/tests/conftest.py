"""Models and data for the tests: tiny random ones made here, real ones from ``ATP_SHARED``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import atp_open_clip
from atp_core.records import LoadedModel, LoadRequest, Source
from atp_open_clip import _examples

COLOURS = {"red": (210, 40, 30), "green": (40, 190, 60), "deep_blue": (20, 40, 200)}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def _picture(colour: Sequence[int], generator: np.random.Generator) -> Image.Image:
    pixels = np.clip(np.array(colour) + generator.normal(0, 25, (16, 16, 3)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _class_folder(root: Path, images: int = 12, seed: int = 0) -> Path:
    """An ImageFolder of coloured noise, `images` for each of three classes."""
    generator = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for i in range(images):
            _picture(colour, generator).save(root / name / f"{i:02}.png")
    return root


def _pairs(root: Path, images: int = 20, seed: int = 0, captions: int = 2) -> Path:
    """A JSONL file of images with captions that all differ."""
    generator = np.random.default_rng(seed)
    (root / "img").mkdir(parents=True)
    lines = []
    for i in range(images):
        name, colour = list(COLOURS.items())[i % 3]
        _picture(colour, generator).save(root / "img" / f"{i}.png")
        texts = [f"{name} number {i}", f"the {i} th {name}"][:captions]
        field = "text" if i % 2 else "caption"
        lines.append(json.dumps({"image": f"img/{i}.png", field: texts if i % 3 else texts[0]}))
    (root / "pairs.jsonl").write_text("\n".join(lines))
    return root / "pairs.jsonl"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tiny random CLIP in open_clip's hub layout."""
    return _examples.write(tmp_path / "clip", _examples.tiny_config())


@pytest.fixture
def loaded(directory: Path) -> LoadedModel:
    """It, loaded."""
    return atp_open_clip.atp_load(Source(str(directory)), LoadRequest())


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """An ImageFolder of three classes with 12 images each."""
    return _class_folder(tmp_path / "colours")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """20 images, most with two captions."""
    return _pairs(tmp_path / "pairs")


@pytest.fixture(scope="session")
def make_config() -> Callable[..., dict[str, Any]]:
    """Makes a tiny config of open_clip."""
    return _examples.tiny_config


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """Writes a random model of a config in open_clip's hub layout."""
    return _examples.write


@pytest.fixture(scope="session")
def write_colours() -> Callable[..., Path]:
    """Writes an ImageFolder."""
    return _class_folder


@pytest.fixture(scope="session")
def write_pairs() -> Callable[..., Path]:
    """Writes images with captions."""
    return _pairs


@pytest.fixture(scope="session")
def word_tokenizer() -> Callable[..., Any]:
    """Makes a tokenizer with a token a word."""
    return _examples.word_tokenizer


@pytest.fixture(scope="session")
def tiny_transformers() -> Callable[[str], Any]:
    """Makes a random "clip", "siglip" or "siglip2" of transformers."""
    return lambda kind: _examples.tiny_transformers(kind)[0]


@pytest.fixture(scope="session")
def tiny_processor() -> Callable[[str], Any]:
    """Makes its processor."""
    return lambda kind: _examples.tiny_transformers(kind)[1]
