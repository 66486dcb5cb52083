"""The kernels in Triton's interpreter. Run by test_interpreted.py, in a process of its own."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

import atp_sparse_gpu._launch as launching
from atp_core.errors import ModelError
from atp_sparse_gpu import PackedWeight, pack, unpack
from atp_sparse_gpu._kernels import INTERPRETED
from atp_sparse_gpu._launch import CONFIGS, Config
from atp_sparse_gpu._ops import linear, unpack_op
from atp_sparse_gpu._packed import SEGMENT

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Odd ones, one below a byte and a word, exact multiples, and just past words and segments.
SHAPES = [(1, 1), (3, 7), (5, 33), (17, 255), (16, 256), (9, 257), (33, 545), (4, 1030)]


def weight_of(rows: int, columns: int, density: float, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * 10007 + columns)
    weight = torch.randn(rows, columns, generator=generator)
    weight[torch.rand(rows, columns, generator=generator) >= density] = 0
    return weight.to(dtype)


def multiply(packed: PackedWeight, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = linear(
        x, packed.mask, packed.values, packed.offsets, bias, packed.shape[1]
    )
    return result


def unpacked(packed: PackedWeight) -> torch.Tensor:
    result: torch.Tensor = unpack_op(
        packed.mask, packed.values, packed.offsets, packed.shape[1]
    )
    return result


def assert_right(
    y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    """`y` is the exact product, but for float32 sums and one rounding to its dtype.

    The interpreter cuts bfloat16 off where a GPU rounds, so a whole unit in the last place is
    allowed, and the error of a sum in float32: K times its unit, of the sum of absolute values.
    """
    added = None if bias is None else bias.double()
    exact = functional.linear(x.double(), weight.double(), added)
    terms = functional.linear(x.double().abs(), weight.double().abs())
    if added is not None:
        terms = terms + added.abs()
    sums = terms * torch.finfo(torch.float32).eps * (x.shape[1] + 1)
    allowed = sums + exact.abs() * torch.finfo(y.dtype).eps + torch.finfo(y.dtype).tiny
    assert y.dtype == weight.dtype and y.shape == exact.shape
    assert ((y.double() - exact).abs() <= allowed).all()


def test_they_are_interpreted() -> None:
    assert INTERPRETED


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_products(rows: int, columns: int, dtype: torch.dtype) -> None:
    """Every number of tokens, densities in turn, with and without bias."""
    densities = itertools.cycle([0.3, 0.5, 1.0, 0.05, 0.0])
    for tokens, density in zip([1, 2, 3, 4, 5, 8, 11, 16], densities, strict=False):
        weight = weight_of(rows, columns, density, dtype)
        x = torch.randn(tokens, columns).to(dtype)
        bias = torch.randn(rows).to(dtype) if tokens % 2 else None
        assert_right(multiply(pack(weight), x, bias), x, weight, bias)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_unpacking_is_exact(
    rows: int, columns: int, density: float, dtype: torch.dtype
) -> None:
    weight = weight_of(rows, columns, density, dtype)
    assert torch.equal(unpacked(pack(weight)), weight)


def test_special_values_survive_unpacking() -> None:
    weight = weight_of(8, 40, 0.5, torch.float32)
    weight[0, :4] = torch.tensor([-0.0, float("nan"), float("inf"), 1e-42])
    found = unpacked(pack(weight))
    assert torch.equal(found.view(torch.int32), weight.view(torch.int32))


def test_empty_and_full_rows_side_by_side() -> None:
    weight = weight_of(40, 600, 1.0, torch.float32)
    weight[::3] = 0
    weight[1::3, 256:512] = 0
    for tokens in (1, 16):
        x = torch.randn(tokens, 600)
        assert_right(multiply(pack(weight), x, None), x, weight, None)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the interpreter's numpy
def test_what_is_not_finite_spreads_as_in_a_dense_product() -> None:
    weight = weight_of(8, 64, 0.5, torch.float32)
    x = torch.randn(2, 64)
    x[0, 3] = float("inf")
    dense = functional.linear(x, weight)
    found = multiply(pack(weight), x, None)
    assert torch.equal(found.isnan(), dense.isnan())
    assert torch.equal(found.isinf(), dense.isinf())


def test_input_need_not_be_contiguous() -> None:
    weight = weight_of(6, 48, 0.4, torch.float32)
    x = torch.randn(48, 3).t()
    assert_right(multiply(pack(weight), x, None), x, weight, None)


def test_nothing_in_nothing_out() -> None:
    packed = pack(weight_of(6, 48, 0.4, torch.float32))
    assert multiply(packed, torch.randn(0, 48), None).shape == (0, 6)


def test_64_bit_offsets() -> None:
    weight = weight_of(9, 300, 0.5, torch.float32)
    packed = pack(weight)
    wide = PackedWeight(packed.mask, packed.values, packed.offsets.long(), packed.shape)
    x = torch.randn(3, 300)
    assert_right(multiply(wide, x, None), x, weight, None)
    assert torch.equal(unpacked(wide), weight)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = weight_of(38, 1300, 0.4, torch.float32)
    packed = pack(weight)
    x = torch.randn(16 if name == "dot" else 3, 1300)
    for config in CONFIGS[name]:
        assert config.chunks * 8 % SEGMENT == 0, "a tile begins where a segment does"
        monkeypatch.setattr(launching, "CONFIGS", {name: (Config(*config),)})
        launching._kernel.cache_clear()
        if name == "unpack":
            assert torch.equal(unpacked(packed), weight)
        else:
            assert_right(multiply(packed, x, None), x, weight, None)
    launching._kernel.cache_clear()


@pytest.mark.parametrize("tokens", [2, 7])
def test_gradients_reach_input_and_bias(tokens: int) -> None:
    weight = weight_of(12, 70, 0.4, torch.float32)
    x = torch.randn(tokens, 70, requires_grad=True)
    bias = torch.randn(12, requires_grad=True)
    seed = torch.randn(tokens, 12)
    multiply(pack(weight), x, bias).backward(seed)
    assert x.grad is not None and bias.grad is not None
    torch.testing.assert_close(x.grad, seed @ weight)
    torch.testing.assert_close(bias.grad, seed.sum(0))


# torch's own check looks at gradients of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_operators_keep_the_rules_of_torch() -> None:
    packed = pack(weight_of(12, 70, 0.4, torch.float32))
    parts = (packed.mask, packed.values, packed.offsets)
    x = torch.randn(3, 70, requires_grad=True)
    torch.library.opcheck(linear, (x, *parts, torch.randn(12, requires_grad=True), 70))
    torch.library.opcheck(unpack_op, (*parts, 70))


def test_kernel_and_torch_agree_on_the_layout() -> None:
    packed = pack(weight_of(31, 777, 0.35, torch.bfloat16))
    assert torch.equal(unpack(packed), unpacked(packed))


def parts() -> list[torch.Tensor]:
    packed = pack(weight_of(12, 300, 0.4, torch.float32))
    return [packed.mask, packed.values, packed.offsets]


@pytest.mark.parametrize(
    ("x", "bias", "why"),
    [
        (torch.zeros(2, 301), None, r"up to 16 × 300 inputs, not \[2, 301\]"),
        (torch.zeros(17, 300), None, r"not \[17, 300\]"),
        (torch.zeros(300), None, r"not \[300\]"),
        (torch.zeros(2, 300, dtype=torch.float16), None, "float16"),
        (torch.zeros(2, 300), torch.zeros(11), "does not fit 12 rows"),
    ],
    ids=["columns", "tokens", "dimensions", "dtype", "bias"],
)
def test_inputs_that_do_not_fit(x: torch.Tensor, bias: torch.Tensor | None, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        linear(x, *parts(), bias, 300)


def test_parts_that_do_not_fit() -> None:
    """A kernel that was given these would read past their ends."""
    mask, values, offsets = parts()
    for wrong in (
        (mask, values, offsets, 400),
        (mask[:, :-1].contiguous(), values, offsets, 300),
        (mask.long(), values, offsets, 300),
        (mask, values, offsets[:5], 300),
        (mask, values, offsets.float(), 300),
        (mask.t().contiguous().t(), values, offsets, 300),
    ):
        with pytest.raises(ModelError, match="pack the weight again"):
            unpack_op(*wrong)
