"""Products of packed weights against dense ones in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atp_sparse_cpu._library import kernels
from atp_sparse_cpu._op import product
from atp_sparse_cpu._weight import Format, pack

pytestmark = pytest.mark.skipif(kernels().library is None, reason=kernels().reason)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Rounding of the result, and of sums in float32.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}


def drawn(seed: int, n: int, k: int, zeros: float, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, k, generator=generator)
    return torch.where(torch.rand(n, k, generator=generator) < zeros, 0.0, weight).to(dtype)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 290), st.integers(0, 40),
    st.sampled_from((0.0, 0.3, 0.5, 0.9, 1.0)), st.sampled_from(DTYPES), st.booleans(),
    st.sampled_from((1, 2)),
)  # fmt: skip
def test_any_size(
    seed: int, n: int, k: int, m: int, zeros: float, dtype: torch.dtype, biased: bool, threads: int
) -> None:
    weight = drawn(seed, n, k, zeros, dtype)
    x = drawn(seed + 1, m, k, 0.0, dtype)
    bias = drawn(seed + 2, 1, n, 0.0, dtype)[0] if biased else None
    packed = pack(weight)
    assert torch.equal(packed.dense(), weight)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = packed.product(x, bias)
    finally:
        torch.set_num_threads(before)
    wanted = x.double() @ weight.double().T
    size = x.double().abs() @ weight.double().abs().T + 1.0
    if bias is not None:
        wanted, size = wanted + bias.double(), size + bias.double().abs()
    assert found.dtype == dtype
    assert found.shape == (m, n)
    assert bool(((found.double() - wanted).abs() <= 3 * ROUNDING[dtype] * size).all())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 290), st.integers(1, 9),
    st.sampled_from(DTYPES),
)  # fmt: skip
def test_int8_is_within_half_a_step(
    seed: int, n: int, k: int, m: int, dtype: torch.dtype
) -> None:
    weight = drawn(seed, n, k, 0.5, dtype)
    x = drawn(seed + 1, m, k, 0.0, dtype)
    packed = pack(weight, "int8")
    rounded = packed.dense().double()
    for start in range(0, k, 128):
        part = weight[:, start : start + 128].double()
        # The scale is rounded up to bfloat16; the result to `dtype`.
        step = part.abs().amax(1, keepdim=True) / 127 * (1 + 2**-7)
        error = (rounded[:, start : start + 128] - part).abs()
        allowed = step / 2 + ROUNDING[dtype] * part.abs().amax(1, keepdim=True)
        assert bool((error <= allowed + 1e-12).all())
    found = packed.product(x, None).double()
    size = x.double().abs() @ weight.double().abs().T + 1.0
    slack = 4 * max(ROUNDING[dtype], 1e-4) * size
    assert bool(((found - x.double() @ rounded.T).abs() <= slack).all())


@pytest.mark.parametrize("form", ["exact", "int8"])
def test_more_rows_than_a_pass_and_any_leading_dimensions(form: Format) -> None:
    weight = drawn(0, 37, 300, 0.7, torch.bfloat16)
    packed = pack(weight, form)
    x = drawn(1, 3 * 700, 300, 0.0, torch.bfloat16).view(3, 700, 300)
    whole = packed.product(x, None)
    assert whole.shape == (3, 700, 37)
    some = packed.product(x[1, 5:9].contiguous(), None)
    assert torch.equal(whole[1, 5:9], some), "a row's result does not depend on the others"
    assert torch.equal(packed.product(x.transpose(0, 1), None), whole.transpose(0, 1))
    wide = torch.cat([x, x], dim=-1)[..., :300]
    assert torch.equal(packed.product(wide, None), whole)
    assert packed.product(x[:0], None).shape == (0, 700, 37)


def test_threads_change_nothing() -> None:
    packed = pack(drawn(0, 100, 130, 0.7, torch.float32))
    x = drawn(1, 9, 130, 0.0, torch.float32)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(packed.product(x, None))
    torch.set_num_threads(before)
    assert torch.equal(*found)


def test_negative_zeros_nans_and_infinities() -> None:
    weight = torch.tensor([[-0.0, 1.0, 0.0], [math.inf, 0.0, 2.0], [math.nan, 0.0, 0.0]])
    packed = pack(weight)
    assert torch.equal(packed.dense().view(torch.int32), weight.view(torch.int32))
    for x in ([1.0, 2.0, 3.0], [1.0, 2.0, math.inf], [0.0, math.nan, 0.0]):
        row = torch.tensor([x])
        wanted = torch.nn.functional.linear(row, weight)
        assert torch.equal(packed.product(row, None).isnan(), wanted.isnan())
        kept = ~wanted.isnan()
        assert torch.equal(packed.product(row, None)[kept], wanted[kept])


def test_the_operator_is_the_product() -> None:
    weight, x = drawn(0, 20, 50, 0.6, torch.float32), drawn(1, 4, 50, 0.0, torch.float32)
    packed, bias = pack(weight), torch.randn(20)
    assert torch.equal(product(packed, x, bias), packed.product(x, bias))
    with pytest.raises(ValueError, match="no kernel here"):
        pack(weight.double())
