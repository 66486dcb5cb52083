"""A small vision transformer that reads handwritten digits, trained on first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import timm
import timm.data
import torch
from torch import nn
from torch.nn import functional

from atp_core.data import find_images, open_image
from atp_core.digits import CLASSES, SIZE, cached, fit, folder
from atp_core.progress import Progress

from ._input import data_config

__all__ = ["digits_directory", "untrained"]

_NAME: Final = "digits-vit-2"
_ARCHITECTURE: Final = "vit_tiny_patch16_224"
_ARGS: Final[dict[str, Any]] = {
    "img_size": SIZE,
    "patch_size": 4,
    "embed_dim": 64,
    "depth": 10,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "class_token": False,
    "global_pool": "avg",
    "num_classes": len(CLASSES),
}
_STEPS: Final = 200
_BATCH: Final = 64


def digits_directory(progress: Progress | None = None) -> Path:
    """The model in timm's hub layout; trained where it is not cached yet.

    Raises:
        DataError: scikit-learn, which carries the digits, is not installed.
    """
    return cached(_NAME, lambda directory: _train(directory, progress))


def untrained() -> nn.Module:
    """The model with random weights."""
    model: nn.Module = timm.create_model(
        _ARCHITECTURE,
        pretrained=False,
        pretrained_cfg_overlay={
            "input_size": (3, SIZE, SIZE),
            "crop_pct": 1.0,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "num_classes": len(CLASSES),
            "tag": "digits",
            "license": "apache-2.0",
        },
        **_ARGS,
    )
    return model


def _prepare(model: Any) -> None:
    """Larger random weights than timm's, which are meant for long training of wide models."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    nn.init.normal_(model.pos_embed, std=0.3)


def _train(directory: Path, progress: Progress | None) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = untrained()
        _prepare(model)
        transform: Any = timm.data.create_transform(**data_config(model), is_training=False)
        images = find_images(folder() / "train")
        pixels = torch.stack([transform(open_image(image.path)) for image in images])
        labels = torch.tensor([CLASSES.index(str(image.label)) for image in images])
        fit(
            model,
            len(images),
            lambda chosen: functional.cross_entropy(model(pixels[chosen]), labels[chosen]),
            steps=_STEPS,
            batch_size=_BATCH,
            learning_rate=2e-3,
            title="training the digits ViT",
            progress=progress,
        )
    timm.models.save_for_hf(
        model,
        str(directory),
        model_config={"label_names": list(CLASSES)},
        safe_serialization=True,
    )
