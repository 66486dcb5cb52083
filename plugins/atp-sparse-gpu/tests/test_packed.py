"""The packed layout, made and undone by torch alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import atp_sparse_gpu._packed as packing
from atp_core.errors import ModelError
from atp_sparse_gpu import PackedWeight, pack, unpack
from atp_sparse_gpu._packed import DTYPES, SEGMENT

DTYPES_LISTED = sorted(DTYPES, key=str)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(DTYPES[tensor.dtype])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 40),
    columns=st.integers(0, 600),
    density=st.sampled_from([0.0, 0.02, 0.3, 0.5, 1.0]),
    dtype=st.sampled_from(DTYPES_LISTED),
    seed=st.integers(0, 2**31),
)
def test_back_bit_for_bit(
    rows: int, columns: int, density: float, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    weight[torch.rand(rows, columns, generator=generator) >= density] = 0
    weight = weight.to(dtype)
    packed = pack(weight)
    assert torch.equal(bits(unpack(packed)), bits(weight))
    assert packed.values.numel() == int((weight != 0).sum())


@pytest.mark.parametrize("dtype", DTYPES_LISTED, ids=str)
def test_special_values(dtype: torch.dtype) -> None:
    weight = torch.zeros(2, 40, dtype=dtype)
    weight[0, :4] = torch.tensor([-0.0, float("nan"), float("-inf"), torch.finfo(dtype).tiny])
    packed = pack(weight)
    assert packed.values.numel() == 4
    assert torch.equal(bits(unpack(packed)), bits(weight))


def test_the_layout_is_the_documented_one() -> None:
    """Against a loop that follows the module's description column by column."""
    weight = torch.randn(5, 2 * SEGMENT + 37)
    weight[torch.rand(weight.shape) < 0.6] = 0
    weight[3] = 0
    packed = pack(weight)
    rows, columns = weight.shape
    assert packed.mask.shape == (rows, -(-columns // 32)) and packed.mask.dtype == torch.int32
    assert packed.offsets.shape == (rows, 3) and packed.offsets.dtype == torch.int32
    stream = packed.values.tolist()
    at = 0
    for row in range(rows):
        words = [word & 0xFFFFFFFF for word in packed.mask[row].tolist()]
        for column in range(columns):
            if column % SEGMENT == 0:
                assert packed.offsets[row, column // SEGMENT] == at
            if words[column // 32] >> column % 32 & 1:
                assert stream[at] == weight[row, column]
                at += 1
            else:
                assert weight[row, column] == 0
        assert words[-1] >> (columns % 32) == 0
    assert at == len(stream)


def test_large_weights_are_packed_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(23, 70)
    weight[torch.rand(weight.shape) < 0.6] = 0
    whole = pack(weight)
    monkeypatch.setattr(packing, "_BLOCK", 200)
    parts = pack(weight)
    assert torch.equal(parts.mask, whole.mask) and torch.equal(parts.values, whole.values)
    assert torch.equal(unpack(parts), weight)


def test_sizes() -> None:
    weight = torch.randn(64, 1024).to(torch.bfloat16)
    weight.view(-1)[: int(0.7 * weight.numel())] = 0
    packed = pack(weight)
    assert packed.sparsity == pytest.approx(0.7, abs=1e-4)
    # A bit a weight of mask, an eighth of offsets, and 16 bits a value.
    assert packed.nbytes * 8 / weight.numel() == pytest.approx(1 + 0.125 + 16 * 0.3, abs=0.01)
    assert packed.to("cpu").shape == (64, 1024)


def test_from_a_bitmask_of_bytes() -> None:
    mask = torch.tensor([[0b00000101, 0b1], [0, 0b10]], dtype=torch.uint8)
    packed = PackedWeight.from_bytes(mask, torch.tensor([1.0, 2.0, 3.0, 4.0]), (2, 10))
    expected = torch.zeros(2, 10)
    expected[0, 0], expected[0, 2], expected[0, 8], expected[1, 9] = 1, 2, 3, 4
    assert torch.equal(unpack(packed), expected)


@pytest.mark.parametrize(
    ("mask", "values", "why"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(0), r"uint8 \[2, 2\], not .* \[2, 3\]"),
        (torch.zeros(2, 2, dtype=torch.int32), torch.zeros(0), "int32"),
        (torch.ones(2, 2, dtype=torch.uint8), torch.zeros(3), "has 4 bits"),
        (torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(0, dtype=torch.int8), "int8"),
    ],
    ids=["shape", "dtype", "count", "values"],
)
def test_parts_that_do_not_fit(mask: torch.Tensor, values: torch.Tensor, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        PackedWeight.from_bytes(mask, values, (2, 10))


def test_dtypes_that_cannot_be_packed() -> None:
    with pytest.raises(ModelError, match="float64"):
        pack(torch.zeros(2, 2, dtype=torch.float64))
