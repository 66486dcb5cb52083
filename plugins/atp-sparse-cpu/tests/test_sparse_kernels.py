"""Kernels against products in float64; packing; the C driver under sanitizers."""

from __future__ import annotations

import dataclasses
import math
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from atp_core.errors import ModelError, NumericalError
from atp_sparse_cpu import _plan
from atp_sparse_cpu._compile import CannotCompile, find_compiler, sources
from atp_sparse_cpu._compute import compute
from atp_sparse_cpu._library import library
from atp_sparse_cpu._packed import Packed, pack
from atp_sparse_cpu._plan import (
    BUCKETS,
    bucket_of,
    kernels_for,
    name_of_bucket,
    rule,
    ways_for,
)
from atp_sparse_cpu._plan import Path as Way

pytestmark = pytest.mark.usefixtures("kernels")

# Rounding of the result, and of sums in float32 of up to 300 products.
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 300 * 2**-24}
DTYPES = list(ROUNDING)


def weight_of(rows: int, columns: int, sparsity: float, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    weight[torch.rand(rows, columns, generator=generator) < sparsity] = 0
    if rows > 2:
        weight[rows // 2] = 0  # a row without, and one full of weights
        weight[0] = torch.randn(columns, generator=generator)
    return weight.to(dtype)


def run(
    packed: Packed, way: Way, x: Tensor, bias: Tensor | None = None
) -> Tensor:
    plan = (int(way),) * len(BUCKETS)
    return compute(x, packed.struct(), packed.values.dtype, bias, None, plan)


shapes = st.tuples(st.integers(1, 40), st.integers(1, 300), st.integers(1, 70))


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shapes,
    st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.integers(0, 99),
)
def test_every_way_equals_the_product_in_float64(
    shape: tuple[int, int, int], sparsity: float, dtype: torch.dtype, biased: bool, seed: int
) -> None:
    rows, columns, tokens = shape
    weight = weight_of(rows, columns, sparsity, dtype, seed)
    x = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)
    bias = torch.randn(rows).to(dtype) if biased else None
    expected = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    size = x.double().abs() @ weight.double().abs().t() + 1
    for way in ways_for(dtype, 64):
        got = run(pack(weight), way, x, bias)
        assert got.dtype == dtype
        bound = ROUNDING[dtype] * (expected.abs() if dtype != torch.float32 else size)
        assert ((got.double() - expected).abs() <= bound + 1e-5 * size).all(), way


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shapes,
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.sampled_from(DTYPES),
    st.integers(0, 99),
)
def test_int8_is_off_by_no_more_than_it_says(
    shape: tuple[int, int, int], sparsity: float, dtype: torch.dtype, seed: int
) -> None:
    rows, columns, tokens = shape
    weight = weight_of(rows, columns, sparsity, dtype, seed)
    packed = pack(weight, int8=True)
    back = packed.unpack(torch.float32)
    x = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)
    w_bound, x_bound = torch.zeros(rows, columns), torch.zeros(tokens, columns)
    for start in range(0, columns, 128):
        part = slice(start, start + 128)
        # half a step of 1/127 of the largest, rounded up to bfloat16
        w_bound[:, part] = weight[:, part].float().abs().amax(1, True) / 127 * (0.5 + 2**-8)
        x_bound[:, part] = x[:, part].float().abs().amax(1, True) / 32767 * 0.5001
    assert ((back - weight.float()).abs() <= w_bound + 1e-12).all()
    assert (back[weight == 0] == 0).all()
    # the product itself only adds the rounding of inputs and of the result
    expected = x.double() @ back.double().t()
    bound = x_bound.double() @ back.double().abs().t() + ROUNDING[dtype] * expected.abs()
    for way in kernels_for(torch.int8):
        got = run(packed, way, x).double()
        size = x.double().abs() @ back.double().abs().t()
        assert ((got - expected).abs() <= bound * 1.001 + 1e-5 * size + 1e-12).all()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from(DTYPES), st.integers(0, 99))
def test_every_bit_comes_back(
    shape: tuple[int, int, int], sparsity: float, dtype: torch.dtype, seed: int
) -> None:
    rows, columns, _ = shape
    weight = weight_of(rows, columns, sparsity, dtype, seed)
    for at, value in enumerate([-0.0, math.nan, math.inf, -math.inf, 1e-7]):
        weight.view(-1)[at * 7 % weight.numel()] = value
    packed, integers = pack(weight), torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(packed.unpack(dtype).view(integers), weight.view(integers))
    first, last = rows // 3, rows - rows // 4
    part = packed.unpack(dtype, first, last)
    assert torch.equal(part.view(integers), weight[first:last].view(integers))


@pytest.mark.parametrize("dtype", DTYPES)
def test_size_is_a_bit_a_weight_and_the_nonzeros(dtype: torch.dtype) -> None:
    weight = weight_of(64, 256, 0.7, dtype, 0)
    nonzeros = int(torch.count_nonzero(weight))
    offsets, slack = 8 * (64 // 4 + 1), 128
    assert pack(weight).bytes == 64 * 256 // 8 + nonzeros * dtype.itemsize + offsets + slack
    int8 = 64 * 256 // 8 + nonzeros + 64 * (256 // 128) * 2 + offsets + slack
    assert pack(weight, int8=True).bytes == int8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_does_as_in_a_dense_layer(dtype: torch.dtype, value: float) -> None:
    weight = torch.tensor([[1.0, 2.0, 0.0], [0.0, 2.0, 3.0]]).to(dtype)
    x = torch.tensor([[value, 1.0, 1.0], [1.0, 1.0, 1.0]]).to(dtype)
    expected = torch.nn.functional.linear(x.float(), weight.float())
    for way in kernels_for(dtype):
        got = run(pack(weight), way, x)
        # zero times infinity is NaN here too
        assert torch.equal(got.float().nan_to_num(7, 8, 9), expected.nan_to_num(7, 8, 9))
    for way in ways_for(dtype, 64):  # in weights
        swapped = run(pack(x), way, weight)
        assert torch.equal(swapped.float().nan_to_num(7, 8, 9), expected.t().nan_to_num(7, 8, 9))
    skipping = run(pack(weight), Way.SPMM, x)
    assert torch.equal(skipping[0, 0].nan_to_num(7), (x[0, 0] + 2).nan_to_num(7))
    assert skipping[0, 1] == 5
    for way in kernels_for(torch.int8):
        got = run(pack(weight, int8=True), way, x)
        assert got[0].isnan().all() and got[1].isfinite().all()


def test_int8_refuses_weights_that_are_not_finite() -> None:
    with pytest.raises(NumericalError, match='use format="exact"'):
        pack(torch.tensor([[math.inf]]), int8=True)


@pytest.mark.parametrize(
    "weight", [torch.zeros(3), torch.zeros(2, 2).double(), torch.empty(2, 2, device="meta")]
)
def test_only_float_matrices_on_the_cpu_are_packed(weight: Tensor) -> None:
    with pytest.raises(ModelError, match="cannot pack"):
        pack(weight)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("int8", [False, True])
def test_results_do_not_depend_on_threads(dtype: torch.dtype, int8: bool) -> None:
    weight = weight_of(130, 200, 0.6, dtype, 1)
    packed = pack(weight, int8=int8)
    for way in {*ways_for(packed.values.dtype, 64)} - {Way.UNPACK}:  # which is torch's product
        for tokens in (1, 7, 130):
            x = torch.randn(tokens, 200).to(dtype)
            torch.set_num_threads(1)
            one = run(packed, way, x)
            torch.set_num_threads(2)
            assert torch.equal(run(packed, way, x), one)


@pytest.mark.usefixtures("tiles")
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.tuples(st.integers(1, 600), st.integers(1, 600), st.integers(1, 1100)),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.booleans(),
    st.integers(0, 99),
)
def test_tiles_equal_the_product_in_float64_for_many_rows_and_tokens(
    shape: tuple[int, int, int], sparsity: float, biased: bool, seed: int
) -> None:
    rows, columns, tokens = shape
    weight = weight_of(rows, columns, sparsity, torch.bfloat16, seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, columns + seed % 3, generator=generator).bfloat16()[:, :columns]
    bias = torch.randn(rows, generator=generator).bfloat16() if biased else None
    expected = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    size = x.double().abs() @ weight.double().abs().t() + 1
    got = run(pack(weight), Way.AMX, x, bias)
    assert got.shape == expected.shape and got.dtype == torch.bfloat16
    bound = ROUNDING[torch.bfloat16] * expected.abs() + 1e-5 * size
    assert ((got.double() - expected).abs() <= bound).all()


@pytest.mark.usefixtures("tiles")
@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(2, 700), st.integers(0, 99))
def test_tiles_give_a_token_the_same_whatever_comes_with_it(
    rows: int, columns: int, tokens: int, seed: int
) -> None:
    packed = pack(weight_of(rows, columns, 0.5, torch.bfloat16, seed))
    x = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(seed)).bfloat16()
    together = run(packed, Way.AMX, x)
    # torch's products use the tiles too, and set them up in their own way
    torch.nn.functional.linear(x, packed.unpack(torch.bfloat16))
    for token in (0, tokens // 2, tokens - 1):
        assert torch.equal(run(packed, Way.AMX, x[token]), together[token])


@pytest.mark.usefixtures("tiles")
def test_tiles_are_for_bfloat16_alone() -> None:
    assert Way.AMX in ways_for(torch.bfloat16, 2) and Way.AMX not in ways_for(torch.bfloat16, 1)
    for dtype in (torch.float32, torch.float16, torch.int8):
        assert Way.AMX not in ways_for(dtype, 64) and Way.AMX not in rule(dtype)
    assert rule(torch.bfloat16)[1:] == (Way.AMX,) * (len(BUCKETS) - 1)
    with pytest.raises(ModelError, match="AMX failed: this processor lacks"):
        run(pack(torch.ones(4, 4)), Way.AMX, torch.ones(2, 4))


def test_without_tiles_nothing_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = library()
    assert found is not None
    without = dataclasses.replace(found, features=found.features & ~8)
    monkeypatch.setattr(_plan, "library", lambda: without)
    for tokens in (1, 2, 64):
        assert Way.AMX not in ways_for(torch.bfloat16, tokens)
    assert Way.AMX not in rule(torch.bfloat16)


def test_inputs_of_any_layout() -> None:
    weight = weight_of(12, 40, 0.5, torch.float32, 2)
    packed, base = pack(weight), torch.randn(3, 40, 5, 80)
    for x in (
        base[0, :, 0, :40],
        base[..., 40:],
        base[:, :, 0, ::2],
        base[0, :40, :, 0].t(),
        base[0, 0, 0, :40],
        base[:, :0, :, :40],
        torch.randn(1, 40).expand(6, 40),
    ):
        got = run(packed, Way.FP32, x)
        torch.testing.assert_close(got, x @ weight.t(), rtol=1e-5, atol=1e-5)


def test_buckets() -> None:
    assert [bucket_of(m) for m in (0, 1, 2, 3, 4, 5, 8, 9, 128, 129, 256, 257, 10**6)] == [
        0, 0, 1, 2, 2, 3, 3, 4, 7, 8, 8, 8, 8,
    ]  # fmt: skip
    assert [name_of_bucket(i) for i in range(9)] == [
        "1", "2", "3-4", "5-8", "9-16", "17-32", "33-64", "65-128", "129-",
    ]  # fmt: skip


@pytest.mark.parametrize("checks", ["address,undefined"])
def test_kernels_under_sanitizers(tmp_path: Path, checks: str) -> None:
    compiler, program = find_compiler(), tmp_path / "kernels_test"
    command = [
        *compiler.command, "-O1", "-g", "-std=gnu11", "-fopenmp", f"-fsanitize={checks}",
        "-fno-sanitize-recover=all", f"-I{sources()[0].parent}", "-o", str(program),
        str(Path(__file__).with_name("kernels_test.c")), *map(str, sources()), "-lm",
    ]  # fmt: skip
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find" in built.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert built.returncode == 0, built.stderr
    # What OpenMP keeps for its threads is no leak of ours.
    done = subprocess.run(
        [str(program)],
        capture_output=True,
        text=True,
        check=False,
        env={"ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all passed" in done.stdout and not done.stdout.startswith("0 ran")


def test_no_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CannotCompile, match="no-such-compiler"):
        find_compiler()
