"""Tiny random vision models that show the plugin at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from atp_core.records import DataRequest, Source
from atp_core.testing import Example, image_folder

__all__ = ["convnext", "vit"]

_ALONE = 'import timm; model = timm.create_model(f"local-dir:{directory}", pretrained=True)'


def vit(directory: Path) -> Example:
    """A ViT of 3 blocks for images of 16 pixels."""
    return _example(
        directory,
        "vit_tiny_patch16_224",
        {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 2},
    )


def convnext(directory: Path) -> Example:
    """A ConvNeXt of 5 blocks of different sizes, with convolutions of 7 x 7 in groups."""
    return _example(directory, "convnext_atto", {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 24)})


def _example(directory: Path, name: str, settings: dict[str, Any]) -> Example:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **settings)
    side = int(settings.get("img_size", 32))
    model.pretrained_cfg["input_size"] = (3, side, side)
    model.pretrained_cfg["crop_pct"] = 1.0
    place = directory / "model"
    timm.models.save_for_hf(model, str(place), safe_serialization=True)
    return Example(
        Source(str(place)),
        DataRequest(
            calibration=str(image_folder(directory / "train", side=side)),
            report=str(image_folder(directory / "report", images=4, side=side, seed=1)),
            samples=12,
            search_samples=8,
            report_samples=12,
        ),
        alone=_ALONE,
        unsupported=[Source("Sequential", model=nn.Sequential(nn.Flatten(), nn.Linear(8, 3)))],
    )
