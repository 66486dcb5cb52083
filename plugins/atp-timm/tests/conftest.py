"""Images and models for the tests: digits and random models made here, real ones from a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import atp_timm
from atp_core.data import find_images
from atp_core.digits import folder
from atp_core.records import LoadedModel, LoadRequest, Source


@pytest.fixture(scope="session")
def digits() -> Path:
    """The handwritten digits: train/, calibration/ and report/, a folder a class in each."""
    return folder()


@pytest.fixture(scope="session")
def tiny_vit() -> Callable[..., Any]:
    """Builds a random ViT for the digits: 4 blocks of width 32, images of 16 pixels."""

    def build(**changes: Any) -> Any:
        torch.manual_seed(0)
        settings: dict[str, Any] = {
            "img_size": 16,
            "patch_size": 4,
            "embed_dim": 32,
            "depth": 4,
            "num_heads": 2,
            "num_classes": 10,
        }
        return timm.create_model("vit_tiny_patch16_224", **{**settings, **changes}).eval()

    return build


@pytest.fixture
def vit_directory(tiny_vit: Callable[..., Any], tmp_path: Path) -> Path:
    """A tiny ViT in timm's hub layout."""
    directory = tmp_path / "vit"
    timm.models.save_for_hf(tiny_vit(), str(directory), safe_serialization=True)
    return directory


@pytest.fixture(scope="session")
def in_memory() -> Callable[..., LoadedModel]:
    """Loads a model that is in memory already."""

    def load(model: Any) -> LoadedModel:
        return atp_timm.atp_load(Source(type(model).__name__, model=model), LoadRequest())

    return load


@pytest.fixture
def vit(tiny_vit: Callable[..., Any], in_memory: Callable[..., LoadedModel]) -> LoadedModel:
    """The random ViT, as core hands it to the hooks."""
    return in_memory(tiny_vit())


@pytest.fixture(scope="session")
def flat(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty digits without labels."""
    directory = tmp_path_factory.mktemp("flat")
    for image in find_images(digits / "report")[::10]:
        (directory / image.path.name).write_bytes(image.path.read_bytes())
    return directory


@pytest.fixture(scope="session")
def cifar_vit(shared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small ViT trained on CIFAR-10, put into timm's hub layout."""
    weights = shared("models/vit-cifar10-142k/vit_cifar10_timm.safetensors")
    directory = tmp_path_factory.mktemp("cifar") / "vit"
    directory.mkdir()
    shutil.copyfile(weights, directory / "model.safetensors")
    arguments = {
        "img_size": 32,
        "patch_size": 4,
        "embed_dim": 64,
        "depth": 4,
        "num_heads": 8,
        "mlp_ratio": 2,
        "act_layer": "gelu_tanh",
        "num_classes": 10,
    }
    preprocessing = {
        "input_size": [3, 32, 32],
        "fixed_input_size": True,
        "crop_pct": 1.0,
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2023, 0.1994, 0.2010],
    }
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 10,
        "model_args": arguments,
        "pretrained_cfg": preprocessing,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory
