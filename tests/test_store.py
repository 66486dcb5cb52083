"""Weights on disk: read by name, replaced, written again, and told apart from damaged ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from atp_core.errors import ModelError
from atp_core.packed import Weights, open_weights
from atp_core.store import WeightStore

TENSORS = {
    "a.weight": torch.randn(5, 3, dtype=torch.bfloat16),
    "a.bias": torch.randn(5),
    "b.weight": torch.randn(2, 4, dtype=torch.float16),
    "b.count": torch.tensor(7),
    "b.flags": torch.tensor([True, False]),
    "b.none": torch.empty(0, 4),
}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files, one for a and one for b."""
    made = []
    for part in "ab":
        made.append(tmp_path / f"{part}.safetensors")
        save_file({n: t for n, t in TENSORS.items() if n.startswith(part)}, made[-1])
    return made


def opened(files: Sequence[Path]) -> list[Weights]:
    return [open_weights(file) for file in files]


def written(directory: Path) -> dict[str, torch.Tensor]:
    index = json.loads((directory / "model.safetensors.index.json").read_text("utf-8"))
    found: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        own = load_file(file)
        assert {name: file.name for name in own}.items() <= index["weight_map"].items()
        found.update(own)
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in found.values())
    assert set(index["weight_map"]) == set(found)
    return found


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) and value.dtype == other[name].dtype
        for name, value in one.items()
    )


def test_tensors_are_read_bit_for_bit(files: list[Path]) -> None:
    store = WeightStore(opened(files))
    assert same({name: store.read(name) for name in TENSORS}, TENSORS)
    assert store.bytes_read == sum(one.nbytes for one in TENSORS.values())
    assert store.missing(["a.bias", "c.weight"]) == ["c.weight"]


def test_what_is_replaced_is_read_until_it_is_reset(files: list[Path], tmp_path: Path) -> None:
    store = WeightStore(opened(files))
    other = TENSORS["a.weight"] * 2
    store.replace({"a.weight": other}, tmp_path)
    assert store.replaced
    assert store.replaced_bytes == other.nbytes
    assert torch.equal(store.read("a.weight"), other)
    assert torch.equal(store.read("a.bias"), TENSORS["a.bias"])
    store.reset()
    assert not store.replaced
    assert torch.equal(store.read("a.weight"), TENSORS["a.weight"])
    assert sorted(tmp_path.iterdir()) == sorted(files), "nothing is left of what was replaced"


def test_the_whole_is_written_as_it_stands(files: list[Path], tmp_path: Path) -> None:
    store = WeightStore(opened(files))
    scratch, output = tmp_path / "scratch", tmp_path / "output"
    scratch.mkdir(), output.mkdir()
    other = torch.zeros(5, 3, dtype=torch.bfloat16)
    store.replace({"a.weight": other}, scratch)
    shards = store.export(output, {name: one.dtype for name, one in TENSORS.items()})
    assert [shard.name for shard in shards] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert same(written(output), {**TENSORS, "a.weight": other})
    assert not any(scratch.iterdir())


def test_dtypes_are_those_asked_for(files: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    names = ["a.weight", "a.bias"]
    WeightStore(opened(files)).export(output, dict.fromkeys(names, torch.float16))
    assert same(written(output), {name: TENSORS[name].to(torch.float16) for name in names})


def test_tensors_outside_blocks_fill_files(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atp_core.store._SHARD", 40)
    output = tmp_path / "output"
    output.mkdir()
    dtypes = {name: one.dtype for name, one in TENSORS.items()}
    shards = WeightStore(opened(files)).export(output, dtypes)
    # 30 bytes, 20 bytes, then 16 + 8 + 2 + 0.
    assert [len(load_file(shard)) for shard in shards] == [1, 2, 3]
    assert same(written(output), TENSORS)


def test_a_weight_of_several_stored_ones(tmp_path: Path) -> None:
    halves = {"x": torch.randn(2, 3), "y": torch.randn(2, 3)}
    save_file(halves, tmp_path / "halves.safetensors")
    store = WeightStore(
        opened([tmp_path / "halves.safetensors"]),
        parts={"both": ["x", "y"]},
        join=lambda name, parts: torch.cat([parts["x"], parts["y"]]),
        split=lambda tensors: dict(zip("xy", tensors["both"].chunk(2), strict=True)),
    )
    assert "both" in store
    both = store.read("both")
    assert torch.equal(both, torch.cat([halves["x"], halves["y"]]))
    scratch, output = tmp_path / "scratch", tmp_path / "output"
    scratch.mkdir(), output.mkdir()
    store.replace({"both": both * 3}, scratch)
    assert torch.equal(store.read("both"), both * 3)
    store.reset()
    store.export(output, {"both": torch.float32})
    assert same(written(output), halves)


def test_a_weight_that_cannot_be_taken_apart(tmp_path: Path) -> None:
    save_file({"x": torch.randn(2), "y": torch.randn(2)}, tmp_path / "one.safetensors")
    store = WeightStore(
        opened([tmp_path / "one.safetensors"]),
        parts={"both": ["x", "y"]},
        join=lambda name, parts: parts["x"],
        split=lambda tensors: {"x": tensors["both"]},
    )
    with pytest.raises(ModelError, match=r"both cannot be written as it was stored \(at y\)"):
        store.replace({"both": torch.zeros(2)}, tmp_path)


def test_damage_is_told_with_the_file(files: list[Path], tmp_path: Path) -> None:
    store = WeightStore(opened(files))
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:-4])
    with pytest.raises(ModelError, match=r"a\.safetensors is truncated"):
        WeightStore(opened(files))
    with pytest.raises(ModelError, match=r"a\.safetensors ends inside a\.weight"):
        [store.read(name) for name in ("a.bias", "a.weight")]
    files[0].unlink()
    with pytest.raises(ModelError, match=r"a\.weight cannot be read from .*a\.safetensors"):
        store.read("a.weight")
    with pytest.raises(ModelError, match="no tensor c"):
        store.read("c")


def test_a_dtype_that_cannot_be_pruned(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(4).to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="F8_E4M3"):
        WeightStore(opened([tmp_path / "x.safetensors"]))
