"""The benchmark but for its clock, in Triton's interpreter. Run by test_interpreted.py."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[4] / "benchmarks" / "sparse_gpu.py"


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    if not SCRIPT.exists():
        pytest.skip("the benchmarks are not here")
    return runpy.run_path(str(SCRIPT), run_name="benchmark")


def test_rows(benchmark: dict[str, Any]) -> None:
    """Every contender on every copy; here the sparse ones take 2 s, the dense one 6 s."""
    ran: list[int] = []
    turns = iter([6.0, 2.0] * 100)

    def clock(call: Callable[[int], Any], copies: int) -> float:
        for i in range(copies):
            call(i)
            ran.append(i)
        return next(turns)

    rows = list(
        benchmark["measured"](
            [(12, 40)], [0.5, 0.7], ["bfloat16"], [1, 16, 20], torch.device("cpu"), clock, 2000, 2
        )
    )
    assert [(row["sparsity"], row["tokens"], row["contender"]) for row in rows] == [
        (sparsity, tokens, name)
        for sparsity in (0.5, 0.7)
        for tokens, sparse in ((1, "bitmask"), (16, "bitmask"), (20, "unpack"))
        for name in ("dense", sparse)
    ]
    assert {row["copies"] for row in rows} == {3} and ran.count(0) == ran.count(2)
    for row in rows:
        assert row["speedup"] == (1.0 if row["contender"] == "dense" else 3.0)
    assert rows[0]["microseconds"] == 6e6


@pytest.mark.parametrize("sparsity", [0.5, 0.7])
def test_the_weights_have_the_sparsity(benchmark: dict[str, Any], sparsity: float) -> None:
    weight = benchmark["pruned"](50, 40, sparsity)
    assert int((weight == 0).sum()) == round(2000 * sparsity)


def test_wrong_results_are_not_timed(benchmark: dict[str, Any]) -> None:
    x, weight, bias = torch.randn(2, 8), torch.randn(3, 8), torch.randn(3)
    y = torch.nn.functional.linear(x, weight, bias)
    benchmark["agrees"]("right", y, x, weight, bias)
    with pytest.raises(SystemExit, match="wrong is off by"):
        benchmark["agrees"]("wrong", y + 1, x, weight, bias)
    with pytest.raises(SystemExit, match="off by nan"):
        benchmark["agrees"]("nan", y * float("nan"), x, weight, bias)
