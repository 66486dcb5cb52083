"""Packed files: nothing is lost, whatever the tensors, and nothing damaged is taken for whole."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import documented
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atp_core.errors import ModelError
from atp_core.packed import (
    open_shards,
    open_weights,
    pack_file,
    packed_name,
    read_index,
    unpack_file,
    weights_file,
    write_index,
)
from atp_core.weights import PACKED_INDEX, find_shards

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.int64,
    torch.bool,
]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def made(shape: tuple[int, ...], dtype: torch.dtype, density: float, seed: int) -> torch.Tensor:
    """Random bit patterns, NaNs and infinities among them, with a share of exact zeros."""
    random = np.random.default_rng(seed)
    count = int(np.prod(shape, dtype=object))
    size = torch.empty(0, dtype=dtype).element_size()
    raw = random.integers(0, 2 if dtype == torch.bool else 256, (count, size), dtype=np.uint8)
    raw[random.random(count) >= density] = 0
    flat = torch.from_numpy(raw.reshape(-1)).view(dtype)
    return flat.reshape(shape) if count else torch.empty(shape, dtype=dtype)


def packed(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A packed directory of these tensors, and the dense file beside it under another name."""
    dense = folder / "dense" / "model.safetensors"
    dense.parent.mkdir()
    safetensors.torch.save_file(tensors, dense, {"format": "pt"})
    name = packed_name(dense.name)
    (folder / "packed").mkdir()
    entry = pack_file(dense, folder / "packed" / name, name)
    index = write_index({dense.name: entry})
    (folder / "packed" / PACKED_INDEX).write_text(index, encoding="utf-8")
    return folder / "packed"


def sparse(rows: int = 64, columns: int = 96, seed: int = 0) -> torch.Tensor:
    return made((rows, columns), torch.bfloat16, 0.3, seed)


SHAPES = st.lists(st.integers(0, 40), min_size=0, max_size=4).map(tuple)
TENSORS = st.dictionaries(
    st.sampled_from(["a", "b.weight", "b.weight.mask", "c.values", "ü"]),
    st.tuples(SHAPES, st.sampled_from(DTYPES), st.floats(0, 1), st.integers(0, 99)),
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(TENSORS)
def test_every_tensor_and_file_comes_back_bit_for_bit(told: dict[str, Any]) -> None:
    tensors = {name: made(*one) for name, one in told.items()}
    with tempfile.TemporaryDirectory() as name:
        directory = packed(Path(name), tensors)
        [weights] = open_shards(directory)
        found = weights.state_dict()
        assert set(found) == set(tensors)
        for one, tensor in tensors.items():
            assert found[one].dtype == tensor.dtype and found[one].shape == tensor.shape
            assert bits(found[one]) == bits(tensor), one
        again = Path(name) / "again.safetensors"
        [entry] = read_index(directory).values()
        unpack_file(weights.file, entry, again)
        dense = Path(name) / "dense" / "model.safetensors"
        assert again.read_bytes() == dense.read_bytes()
        assert weights.file.stat().st_size == entry.layout().end


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_an_altered_byte_is_refused_or_harmless(data: st.DataObject) -> None:
    tensors = {
        "w": sparse(20, 70),
        "b": torch.arange(5.0),
        "k": made((8, 4, 3, 3), torch.float32, 0.2, 1),
    }
    with tempfile.TemporaryDirectory() as name:
        directory = packed(Path(name), tensors)
        files = sorted(directory.iterdir())
        file = data.draw(st.sampled_from(files))
        content = bytearray(file.read_bytes())
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] ^= data.draw(st.integers(1, 255))
        else:
            content = content[: data.draw(st.integers(0, len(content) - 1))]
        file.write_bytes(content)
        try:
            [weights] = open_shards(directory)
            found = weights.state_dict()
        except ModelError as error:
            assert str(file) in str(error) or str(directory) in str(error)
            return
        assert {one: bits(tensor) for one, tensor in found.items()} == {
            one: bits(tensor) for one, tensor in tensors.items()
        }


def test_what_is_stored_is_what_the_specification_says(tmp_path: Path) -> None:
    """Read with nothing but safetensors and NumPy, as a third party would."""
    weight = made((5, 70), torch.bfloat16, 0.3, 3)
    weight[0, 0] = -0.0
    weight[1] = 0
    directory = packed(tmp_path, {"w": weight, "b": torch.ones(3)})
    stored = safetensors.torch.load_file(directory / "model.packed.safetensors")
    assert set(stored) == {"b", "w.mask", "w.values"}
    mask = stored["w.mask"]
    assert mask.dtype == torch.uint8 and mask.shape == (5, 12)  # 70 bits: three words of 32
    words = mask.view(torch.int32).numpy()
    values = iter(stored["w.values"].view(torch.int16).tolist())
    dense = weight.view(torch.int16)
    for row in range(5):
        for column in range(96):
            set_bit = words[row, column // 32] >> (column % 32) & 1
            if column >= 70:
                assert not set_bit
            else:
                assert (next(values) if set_bit else 0) == dense[row, column]
    assert next(values, None) is None
    index = json.loads((directory / PACKED_INDEX).read_text("utf-8"))
    assert (index["format"], index["version"]) == ("atp-packed", 1)
    told = index["files"]["model.safetensors"]["tensors"]
    assert told["w"]["matrix"] == [5, 70] and "matrix" not in told["b"]
    assert told["w"]["nonzeros"] == len(stored["w.values"])


def test_the_reader_of_the_specification_reads(tmp_path: Path) -> None:
    page = Path(__file__).parents[1] / "docs" / "packed-format.md"
    [code] = documented.fenced(page.read_text("utf-8"), "python")
    names: dict[str, Any] = {}
    exec(code, names)
    weight = sparse(30, 90)
    directory = packed(tmp_path, {"w": weight})
    found = names["dense_bits"](directory, "w")
    assert found.shape == (30, 90) and found.tobytes() == bits(weight)


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((8, 100), [8, 100]),
        ((16, 4, 3, 3), [16, 36]),
        ((2, 64, 3, 3, 3), [2, 1728]),
        ((3, 5, 128), [15, 128]),
    ],
)
def test_tensors_of_more_dimensions_are_packed_as_matrices(
    shape: tuple[int, ...], matrix: list[int], tmp_path: Path
) -> None:
    directory = packed(tmp_path, {"w": made(shape, torch.float32, 0.1, 0)})
    [entry] = read_index(directory).values()
    assert entry.to_dict()["tensors"]["w"]["matrix"] == matrix


def test_only_what_becomes_smaller_is_packed(tmp_path: Path) -> None:
    tensors = {
        "dense": made((32, 64), torch.bfloat16, 0.99, 0),
        "sparse": made((32, 64), torch.bfloat16, 0.9, 0),
        "vector": torch.zeros(1000),
        "name": torch.zeros(32, 64),
        "name.mask": torch.ones(2),
    }
    [entry] = read_index(packed(tmp_path, tensors)).values()
    assert {name for name, one in entry.tensors.items() if one.matrix is not None} == {"sparse"}


@pytest.mark.parametrize("chunk", [1, 100, 1000])
def test_the_size_of_chunks_makes_no_difference(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    tensors = {"w": sparse(33, 70), "b": torch.arange(50.0)}
    before = packed(whole, tensors)
    for module in ("_bits", "_write", "_read"):
        monkeypatch.setattr(f"atp_core.packed.{module}.CHUNK_BYTES", max(chunk, 8))
    after = packed(parts, tensors)
    for file in before.iterdir():
        assert file.read_bytes() == (after / file.name).read_bytes()
    found = open_weights(after / "model.packed.safetensors").state_dict()
    assert bits(found["w"]) == bits(tensors["w"])


# --- what is refused ------------------------------------------------------------------------------


def rewritten(directory: Path, change: Any) -> None:
    """The index after `change`, with a checksum that fits."""
    path = directory / PACKED_INDEX
    index = json.loads(path.read_text("utf-8"))
    change(index)
    from atp_core.packed.index import _checksum

    index["checksum"] = _checksum(index["files"])
    path.write_text(json.dumps(index), encoding="utf-8")


def of_w(index: Any) -> Any:
    return index["files"]["model.safetensors"]["tensors"]["w"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda i: i.update(version=2), "reads version 1; upgrade it"),
        (lambda i: i.update(format="other"), "is no index of packed weights"),
        (lambda i: of_w(i).pop("checksums"), "is incomplete"),
        (lambda i: of_w(i).update(nonzeros=10**9), "nonzeros of w"),
        (lambda i: of_w(i).update(nonzeros=of_w(i)["nonzeros"] + 1), "does not fit its index at w"),
        (lambda i: of_w(i).update(matrix=[1, 1]), "matrix of w"),
        (lambda i: of_w(i).update(matrix=[32, 192]), "does not fit its index at w"),
        (lambda i: of_w(i)["checksums"].update(mask="0" * 32), "w in .* was altered"),
        (lambda i: i["files"]["model.safetensors"].update(file="../x"), "outside its directory"),
        (lambda i: i["files"]["model.safetensors"].update(header="{"), "header of .* is corrupt"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(change: Any, told: str, tmp_path: Path) -> None:
    directory = packed(tmp_path, {"w": sparse()})
    rewritten(directory, change)
    with pytest.raises(ModelError, match=told):
        [shard.state_dict() for shard in open_shards(directory)]


def test_values_that_do_not_fit_the_mask_are_refused(tmp_path: Path) -> None:
    """Even where all checksums are right: the file was made wrong."""
    directory = packed(tmp_path, {"w": sparse()})
    file = directory / "model.packed.safetensors"
    stored = safetensors.torch.load_file(file)
    stored["w.mask"][0] ^= 1
    safetensors.torch.save_file(stored, file, {"format": "pt", "atp_packed": "1"})
    from atp_core.packed.index import digest

    right = digest(bits(stored["w.mask"])).hexdigest()
    rewritten(directory, lambda i: of_w(i)["checksums"].update(mask=right))
    with pytest.raises(ModelError, match=r"w in .*model\.packed\.safetensors was altered"):
        open_weights(file).state_dict()


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    directory = packed(tmp_path, {"w": sparse()})
    (directory / "model.packed.safetensors").unlink()
    with pytest.raises(ModelError, match="there is no weight file"):
        open_shards(directory)


def test_readers_of_dense_weights_are_told_to_unpack(tmp_path: Path) -> None:
    directory = packed(tmp_path, {"w": sparse()})
    with pytest.raises(ModelError, match=r"atp export .* --format dense -o NEW"):
        find_shards(directory)
    found = weights_file(directory / "model.safetensors")
    assert found == directory / "model.packed.safetensors"
    assert weights_file(directory / "other.safetensors") is None
