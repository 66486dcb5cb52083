"""Pruned models for the tests: real ones from a folder, trained digits, and tiny random ones."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import atp_core

MISSING = [
    name
    for name in ("open_clip", "peft", "sentencepiece", "sklearn", "timm", "transformers")
    if importlib.util.find_spec(name) is None
]

CHEAP: dict[str, Any] = {
    "sparsity": 0.6,
    "method": "magnitude",
    "allocation": "uniform",
    "baseline": False,
}
"""Pruning that takes a second: what it does to the model does not matter here."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a package that is not there."""
    if MISSING:
        for item in items:
            if "atp-tune" in str(item.path):
                item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(MISSING)}"))


@pytest.fixture(scope="session")
def stories(
    shared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The stories model, 60 % of its weights cut."""
    source = shared("models/stories260k")
    output = tmp_path_factory.mktemp("stories") / "pruned"
    atp_core.prune(str(source), output=output, report_samples=2, seqlen=64, **CHEAP)
    return output


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vision transformer that reads digits, 60 % of its weights cut."""
    output = tmp_path_factory.mktemp("digits") / "pruned"
    atp_core.prune("embedded:digits-vit", output=output, report_samples=20, **CHEAP)
    return output


@pytest.fixture(scope="session")
def digit_images() -> Path:
    """The handwritten digits, a folder a class; these were not trained on."""
    from atp_core.digits import folder

    return folder() / "calibration"


@pytest.fixture(scope="session")
def pairs(digit_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images with a caption each."""
    from atp_core.data import find_images

    lines = [
        json.dumps({"image": str(image.path), "text": f"number {i}: a {image.label}"})
        for i, image in enumerate(find_images(digit_images)[::8][:48])
    ]
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def clip(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP of open_clip, whose query, key and value are one bare parameter."""
    from atp_open_clip._examples import tiny_config, write

    folder = tmp_path_factory.mktemp("clip")
    source = write(folder / "dense", tiny_config())
    atp_core.prune(str(source), output=folder / "pruned", calibration=str(pairs), **CHEAP)
    return folder / "pruned"


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents that are easy to learn: the same kind of sentence about different numbers."""
    names = ["Lily", "Tom", "Sue", "Ben", "Mia", "Max"]
    documents = [
        f"Once upon a time, there was a child named {names[i % 6]}. {names[i % 6]} had {i} red "
        f"balls and liked to play in the park. One day, {names[i % 6]} saw a big dog. The dog "
        f"took {i % 7} balls. {names[i % 6]} was sad. Mom said, do not be sad, we will find them."
        for i in range(160)
    ]
    file = tmp_path_factory.mktemp("text") / "text.jsonl"
    file.write_text("\n".join(json.dumps({"text": one}) for one in documents), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def tensors() -> Callable[[Path], dict[str, Any]]:
    """Reads every tensor that a directory holds."""

    def read(directory: Path) -> dict[str, Any]:
        found = {}
        for file in sorted(directory.glob("*.safetensors")):
            with safe_open(file, framework="pt") as opened:
                found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return found

    return read
