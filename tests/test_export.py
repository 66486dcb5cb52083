"""`atp export`: packed and back, with all that lies beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import atp_core
from atp_core.cli import main
from atp_core.errors import ModelError, UsageError
from atp_core.packed import open_shards


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A sharded checkpoint, seven tenths zeros, with files beside and below it."""
    directory = tmp_path / "saved"
    (directory / "extra").mkdir(parents=True)
    weight_map = {}
    for i in (1, 2):
        tensors = {f"w{i}": torch.randn(64, 256).bfloat16(), f"b{i}": torch.randn(64)}
        tensors[f"w{i}"][torch.rand(64, 256) < 0.7] = 0
        name = f"model-0000{i}-of-00002.safetensors"
        save_file(tensors, directory / name, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "README.md").write_text("# card")
    (directory / "atp.json").write_text("{}")
    (directory / "extra" / "vocab.txt").write_text("a\nb\n")
    (directory / ".cache").mkdir()
    save_file({"w": torch.zeros(64, 64)}, directory / ".cache" / "old.safetensors")
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    return directory


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.parent.name != ".cache"
    }


def test_shards_are_packed_and_come_back(saved: Path, tmp_path: Path, capsys: Any) -> None:
    packed, again = tmp_path / "packed", tmp_path / "again"
    assert main(["export", str(saved), "-o", str(packed), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    before, small = files(saved), files(packed)
    assert told["left_out"] == ["pytorch_model.bin"]
    assert set(before) - set(small) == {
        "pytorch_model.bin",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    assert set(small) - set(before) == {
        "atp-packed.json",
        "model-00001-of-00002.packed.safetensors",
        "model-00002-of-00002.packed.safetensors",
    }
    assert all(small[name] == before[name] for name in {*before} & {*small})
    assert told["dense_bytes"] == 2 * 64 * 256 * 2
    values = told["packed_bytes"] - 2 * 64 * 256 // 8
    assert told["sparsity"] == pytest.approx(1 - values / 2 / (2 * 64 * 256))
    assert told["ratio"] == told["packed_bytes"] / told["dense_bytes"] < 0.40
    assert told["packed_total_bytes"] == sum(
        len(content) for name, content in small.items() if name.endswith(".safetensors")
    )
    assert main(["export", str(packed), "--format", "dense", "-o", str(again)]) == 0
    assert "packed ÷ dense" in capsys.readouterr().out
    del before["pytorch_model.bin"]
    assert not (packed / ".cache").exists(), "hidden files are not the model's"
    assert files(again) == before


def test_the_python_function_says_the_same_in_both_directions(saved: Path, tmp_path: Path) -> None:
    one = atp_core.export(saved, output=tmp_path / "packed")
    other = atp_core.export(tmp_path / "packed", output=tmp_path / "dense", format="dense")
    assert one.files == other.files and one.total_ratio == other.total_ratio
    assert len(open_shards(tmp_path / "packed")) == 2
    assert [shard.packed for shard in open_shards(tmp_path / "dense")] == [False, False]


def test_what_cannot_be_exported_is_told(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is the source itself"):
        atp_core.export(saved, output=saved)
    with pytest.raises(UsageError, match="are dense already"):
        atp_core.export(saved, output=tmp_path / "out", format="dense")
    with pytest.raises(UsageError, match="there is no directory"):
        atp_core.export(tmp_path / "none", output=tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match="has no safetensors to pack"):
        atp_core.export(empty, output=tmp_path / "out")
    atp_core.export(saved, output=tmp_path / "out")
    with pytest.raises(UsageError, match="are packed already"):
        atp_core.export(tmp_path / "out", output=tmp_path / "new")
    with pytest.raises(UsageError, match="--overwrite"):
        atp_core.export(saved, output=tmp_path / "out")
    atp_core.export(saved, output=tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("form", ["packed", "dense"])
def test_a_damaged_source_leaves_nothing_behind(form: Any, saved: Path, tmp_path: Path) -> None:
    source = saved
    if form == "dense":
        source = tmp_path / "packed"
        atp_core.export(saved, output=source)
    file = sorted(source.glob("*.safetensors"))[-1]
    content = bytearray(file.read_bytes())
    if form == "packed":
        file.write_bytes(content[:-5])
    else:
        content[-5] ^= 1
        file.write_bytes(content)
    before = set(tmp_path.iterdir())
    with pytest.raises(ModelError, match=file.name):
        atp_core.export(source, output=tmp_path / "out", format=form)
    assert set(tmp_path.iterdir()) == before
