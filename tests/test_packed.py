"""The packed format: lossless for every dtype and shape, and damaged files are refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import atp_core
from atp_core.cli import main
from atp_core.errors import AtpError, ModelError, UsageError
from atp_core.packed import INDEX_NAME, pack_files, unpack_files

DTYPES = (
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint8,
    torch.float8_e4m3fn, torch.int64,
)  # fmt: skip


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def same(one: Path, other: Path) -> None:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert tensor.shape == second[name].shape, name
        assert torch.equal(bits(tensor), bits(second[name])), name


def there_and_back(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, int]]:
    dense, packed, again = (folder / name for name in ("dense", "packed", "again"))
    for made in (dense, packed, again):
        made.mkdir()
    save_file(tensors, dense / "model.safetensors", metadata={"format": "pt"})
    sizes = pack_files([dense / "model.safetensors"], packed)
    assert unpack_files(packed, again) == sizes
    same(dense / "model.safetensors", again / "model.safetensors")
    return sizes


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    found = {}
    for i in range(draw(st.integers(1, 5))):
        shape = draw(st.lists(st.integers(0, 19), max_size=4))
        dtype = draw(st.sampled_from(DTYPES))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
        values = torch.randint(0, 256, (*shape, dtype.itemsize), generator=generator).byte()
        kept = torch.rand(shape, generator=generator) < draw(st.floats(0, 1))
        values = torch.where(kept.unsqueeze(-1), values, 0)
        found[f"layer.{i}"] = values.contiguous().view(dtype).reshape(shape)
    return found


@settings(max_examples=80, deadline=None)
@given(tensors())
def test_any_bit_pattern_comes_back(
    tmp_path_factory: pytest.TempPathFactory, given: dict[str, torch.Tensor]
) -> None:
    there_and_back(tmp_path_factory.mktemp("packed"), given)


def test_the_layout_is_that_of_the_specification(tmp_path: Path) -> None:
    weight = torch.zeros(2, 10)
    weight[0, 0], weight[0, 9], weight[1, 3], weight[1, 4] = 1.0, 2.0, -0.0, 3.0
    sizes = there_and_back(tmp_path, {"w": weight, "bias": torch.ones(3)})
    assert sizes == {"w": (80, 4 + 16)}
    stored = load_file(tmp_path / "packed" / "model.packed.safetensors")
    assert stored["w.mask"].tolist() == [[0b1, 0b10], [0b11000, 0]]
    assert stored["w.values"].tolist() == [1.0, 2.0, -0.0, 3.0]
    assert bool(torch.signbit(stored["w.values"][2])), "a negative zero is a value"
    assert stored["bias"].tolist() == [1.0, 1.0, 1.0]
    index = json.loads((tmp_path / "packed" / INDEX_NAME).read_text("utf-8"))
    assert index["version"] == 1
    assert list(index["files"]) == ["model.packed.safetensors"]


def test_only_what_gets_smaller_is_packed(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    full = torch.rand(16, 16, generator=generator) + 1
    half = torch.where(torch.rand(16, 16, generator=generator) < 0.5, full, 0.0)
    assert set(there_and_back(tmp_path, {"full": full, "half": half})) == {"half"}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_byte_is_refused_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    weight = torch.where(torch.arange(60).reshape(6, 10) % 3 == 0, 1.5, 0.0)
    there_and_back(folder, {"w": weight, "bias": torch.ones(3)})
    file = data.draw(st.sampled_from(sorted((folder / "packed").iterdir())))
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(bytes(content))
    (folder / "other").mkdir()
    try:
        unpack_files(folder / "packed", folder / "other")
    except AtpError as error:
        assert "packed" in str(error)
    else:
        same(folder / "dense" / "model.safetensors", folder / "other" / "model.safetensors")


def test_damage_is_named(tmp_path: Path) -> None:
    weight = torch.where(torch.arange(60).reshape(6, 10) % 3 == 0, 1.5, 0.0)
    there_and_back(tmp_path, {"deep.w": weight})
    file = tmp_path / "packed" / "model.packed.safetensors"
    content = file.read_bytes()
    into = tmp_path / "into"
    into.mkdir()
    file.write_bytes(content[:-3])
    with pytest.raises(ModelError, match=r"model\.packed\.safetensors is truncated"):
        unpack_files(tmp_path / "packed", into)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"deep\.w.*(keeps|changed|beyond)"):
        unpack_files(tmp_path / "packed", into)
    length = struct.unpack("<Q", content[:8])[0]
    start = 8 + length
    file.write_bytes(content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :])
    with pytest.raises(ModelError, match=r"deep\.w.*bytes have changed"):
        unpack_files(tmp_path / "packed", into)
    file.unlink()
    with pytest.raises(ModelError, match="no weight file"):
        unpack_files(tmp_path / "packed", into)
    index = tmp_path / "packed" / INDEX_NAME
    index.write_text(index.read_text("utf-8").replace('"version": 1', '"version": 2'), "utf-8")
    with pytest.raises(ModelError, match="upgrade atp-prune"):
        unpack_files(tmp_path / "packed", into)


@pytest.fixture
def pruned(shared: Callable[[str], Path], tmp_path: Path) -> Path:
    """The TinyStories model at 70 %."""
    pytest.importorskip("atp_llm", reason="the plugin for language models is not installed")
    few: dict[str, Any] = {"samples": 4, "seqlen": 32, "search_samples": 2, "report_samples": 2}
    out = tmp_path / "pruned"
    atp_core.prune(str(shared("models/stories260k")), sparsity=0.7, beta=0.01, output=out, **few)
    return out


def test_a_pruned_model_is_packed_read_and_unpacked(
    pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, again = tmp_path / "packed", tmp_path / "again"
    assert main(["export", str(pruned), "--format", "packed", "-o", str(packed), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ratio"] == pytest.approx(1 / 32 + 0.3, abs=0.005), "a float32 checkpoint"
    assert told["bytes_after"] < told["bytes_before"]
    assert (packed / "config.json").read_bytes() == (pruned / "config.json").read_bytes()
    few: dict[str, Any] = {"seqlen": 32, "report_samples": 2}
    of_packed, of_dense = (atp_core.evaluate(str(one), **few) for one in (packed, pruned))
    assert of_packed.metrics["perplexity"].value == of_dense.metrics["perplexity"].value
    assert of_packed.source == str(packed)
    zeros = [atp_core.inspect(str(one)).zeros for one in (packed, pruned)]
    assert zeros[0] == zeros[1]
    assert main(["export", str(packed), "--format", "dense", "-o", str(again)]) == 0
    same(pruned / "model.safetensors", again / "model.safetensors")
    names = {path.name for path in pruned.iterdir()}
    assert {path.name for path in again.iterdir()} == names


def test_wrong_requests(pruned: Path, tmp_path: Path) -> None:
    for source, form, output, message in (
        (pruned, "dense", tmp_path / "o", "is dense already"),
        (pruned, "packed", pruned, "choose another"),
        (tmp_path / "none", "packed", tmp_path / "o", "is no directory"),
    ):
        with pytest.raises(UsageError, match=message):
            atp_core.export(source, format=form, output=output)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no \.safetensors files"):
        atp_core.export(tmp_path / "empty", format="packed", output=tmp_path / "o")
    damaged = tmp_path / "damaged"
    atp_core.export(pruned, format="packed", output=damaged)
    file = damaged / "model.packed.safetensors"
    content = np.frombuffer(file.read_bytes(), np.uint8).copy()
    content[-1] ^= 1
    file.write_bytes(content.tobytes())
    with pytest.raises(ModelError, match="damaged"):
        atp_core.export(damaged, format="dense", output=tmp_path / "o")
    assert not (tmp_path / "o").exists()
    with pytest.raises(ModelError, match="damaged"):
        atp_core.evaluate(str(damaged), seqlen=32, report_samples=2)
