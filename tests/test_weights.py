"""Weight files are checked before they are read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from atp_core.errors import ModelError
from atp_core.weights import Stored, describe_files, find_shards, read_header, refuse_pickles


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4).half()}, path, {"format": "pt"})
    return path


def test_header(file: Path) -> None:
    assert read_header(file) == {"a": Stored("F32", (2, 3)), "b": Stored("F16", (4,))}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[:-1], "is truncated: its header describes"),
        (lambda data: data + b"x", "is corrupt: its header describes"),
        (lambda data: data[:5], "is truncated or no safetensors file"),
        (lambda data: b"\xff" * 64, "is truncated or no safetensors file"),
        (lambda data: data[:8] + b"?" + data[9:], "header of .* is corrupt"),
    ],
    ids=["cut", "long", "head", "noise", "json"],
)
def test_damaged_files_are_named(file: Path, damage: object, told: str) -> None:
    assert callable(damage)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match=rf"model\.safetensors.*{told}|{told}"):
        read_header(file)


def test_missing_files_and_pickles(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no weight file"):
        read_header(tmp_path / "nothing.safetensors")
    with pytest.raises(ModelError, match=r"a\.pth is a pickle.*save_file"):
        read_header(tmp_path / "a.pth")


def test_shards(tmp_path: Path, file: Path) -> None:
    assert find_shards(tmp_path) == [file]
    file.rename(tmp_path / "x-1.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}))
    with pytest.raises(ModelError, match=r"lacks 1 of 2 shards .* x-2\.safetensors"):
        find_shards(tmp_path)
    (tmp_path / "x-2.safetensors").touch()
    assert [path.name for path in find_shards(tmp_path)] == ["x-1.safetensors", "x-2.safetensors"]
    index.write_text("[]")
    with pytest.raises(ModelError, match="not a valid index"):
        find_shards(tmp_path)


def test_a_directory_with_pickles_only(tmp_path: Path) -> None:
    refuse_pickles(tmp_path)
    with pytest.raises(ModelError, match="has no weights"):
        find_shards(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle.* use a tool"):
        find_shards(tmp_path, "use a tool")


def test_description(file: Path) -> None:
    [entry] = describe_files([file])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert entry == {"file": file.name, "bytes": file.stat().st_size, "sha256": digest}
