"""Which weights are 2:4, and which of them torch takes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from atp_sparse_gpu._platform import semi_structured_problem
from atp_sparse_gpu._semi_structured import convert, has_pattern, unfit


def pruned_2_4(rows: int, columns: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """Random, the two smaller of every four columns zero."""
    weight = torch.randn(rows, columns // 4, 4)
    weight.scatter_(2, weight.abs().argsort(2)[:, :, :2], 0)
    return weight.view(rows, columns).to(dtype)


@pytest.mark.parametrize("kept", list(itertools.product([0, 1], repeat=4)))
def test_one_group(kept: tuple[int, ...]) -> None:
    weight = torch.zeros(3, 16)
    weight[1, 8:12] = torch.tensor(kept)
    assert has_pattern(weight) == (sum(kept) <= 2)


def test_groups_lie_along_in_features() -> None:
    weight = pruned_2_4(8, 16)
    assert has_pattern(weight)
    dense_rows = torch.zeros(4, 8)
    dense_rows[:2] = 1
    assert not has_pattern(dense_rows) and has_pattern(dense_rows.t().contiguous()[:, :4])


def test_half_of_the_zeros_are_not_enough() -> None:
    weight = torch.zeros(4, 8)
    weight[:, 1:4] = 1
    assert not has_pattern(weight)


def test_groups_begin_at_multiples_of_four() -> None:
    weight = torch.zeros(1, 8)
    weight[0, 2:6] = 1
    assert has_pattern(weight), "two in the first group and two in the second"


def test_what_has_no_groups() -> None:
    assert not has_pattern(torch.zeros(4, 6))
    assert not has_pattern(torch.zeros(4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shapes(dtype: torch.dtype) -> None:
    assert unfit(dtype, (4096, 11008)) is None
    assert "multiple" in (unfit(dtype, (4096, 11008 + 4)) or "")
    assert "multiple" in (unfit(dtype, (4097, 11008)) or "")
    assert "multiple" in (unfit(dtype, (0, 64)) or "")


def test_float32_would_be_rounded() -> None:
    assert "float32" in (unfit(torch.float32, (64, 64)) or "")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 5, 64])
def test_products(dtype: torch.dtype, tokens: int) -> None:
    if problem := semi_structured_problem():
        pytest.skip(problem)
    weight = pruned_2_4(128, 256, dtype).cuda()
    x, bias = torch.randn(tokens, 256).to(weight), torch.randn(128).to(weight)
    exact = functional.linear(x.double(), weight.double(), bias.double())
    found = functional.linear(x, convert(weight), bias)
    torch.testing.assert_close(found.double(), exact, rtol=2e-2, atol=2e-2)


def test_the_machine_is_asked_first() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert semi_structured_problem() == "2:4 products need a CUDA device"
    with pytest.raises(RuntimeError):
        convert(pruned_2_4(64, 64))
