"""Sparse linear layers against dense ones on an NVIDIA GPU, in one process.

    python benchmarks/sparse_gpu.py            # a few minutes; --quick for one shape

Needs `atp-prune-sparse-gpu` and a CUDA device. Contenders are the dense product (cuBLAS), torch's
2:4 product on a weight of that pattern, the bitmask kernel up to 16 tokens, unpacking plus the
dense product above, and MACKO (https://github.com/vlejd/macko_spmv) for one token in float16
where it is installed. Every contender runs through copies of its weight that together are larger
than the L2 cache, in rounds of all contenders; ratios are of the same round. Outputs are checked
against float64 first. Results go to benchmarks/results/sparse_gpu.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent / "results" / "sparse_gpu.json"
# The linear layers of LLaMA-7B, (out_features, in_features).
SHAPES = [(4096, 4096), (11008, 4096), (4096, 11008)]
SPARSITIES = [0.5, 0.6, 0.7, 0.8]
TOKENS = [1, 4, 16, 64]
DTYPES = ["bfloat16", "float16"]
ROUNDS = 25
# Bytes that the copies of one weight have together, at least: several times any L2 cache.
COLD = 512 * 2**20

Call = Callable[[int], Any]
"""Runs a contender on copy number i of its weight."""
Clock = Callable[[Call, int], float]
"""Seconds a call when a contender runs once on each of so many copies."""


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one shape, one sparsity, one dtype")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit(
            "error: benchmarks/sparse_gpu.py measures on an NVIDIA GPU, and torch sees none here "
            f"(torch {torch.__version__}, CUDA {torch.version.cuda or 'not built in'})"
        )
    grid = (SHAPES, SPARSITIES, DTYPES)
    if args.quick:
        grid = (SHAPES[:1], [0.7], DTYPES[:1])
    rows = []
    for row in measured(*grid, TOKENS, torch.device("cuda"), cuda_clock(), COLD, ROUNDS):
        rows.append(row)
        print(json.dumps(row), file=sys.stderr)
    args.output.write_text(
        json.dumps({"device": described(), "rounds": ROUNDS, "rows": rows}, indent=1) + "\n",
        encoding="utf-8",
    )
    print(args.output)


def described() -> dict[str, Any]:
    """The GPU and the versions of all that has a say in speed."""
    import torch

    from atp_sparse_gpu import runtime_info

    properties = torch.cuda.get_device_properties(0)
    return {
        **runtime_info(),
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
        "cudnn": torch.backends.cudnn.version(),
    }


def measured(
    shapes: Sequence[tuple[int, int]],
    sparsities: Sequence[float],
    dtypes: Sequence[str],
    tokens: Sequence[int],
    device: Any,
    clock: Clock,
    cold: int,
    rounds: int,
) -> Iterator[dict[str, Any]]:
    """A row for every shape, sparsity, dtype, number of tokens and sparse contender."""
    import torch

    for dtype_name in dtypes:
        dtype = getattr(torch, dtype_name)
        for rows, columns in shapes:
            for sparsity in sparsities:
                weight = pruned(rows, columns, sparsity).to(device, dtype)
                bias = torch.randn(rows).to(device, dtype)
                copies = max(2, math.ceil(cold / weight.nbytes))
                for m in tokens:
                    x = torch.randn(m, columns).to(device, dtype)
                    found = contenders(weight, sparsity, x, bias, copies)
                    for name, times in in_turn(found, copies, clock, rounds).items():
                        yield {
                            "shape": [rows, columns], "sparsity": sparsity, "dtype": dtype_name,
                            "tokens": m, "copies": copies, "contender": name, **times,
                        }  # fmt: skip


def pruned(rows: int, columns: int, sparsity: float) -> Any:
    """A random weight, zeros of the given share spread evenly, as magnitudes of it choose."""
    import torch

    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    threshold = weight.abs().view(-1).kthvalue(max(1, round(sparsity * weight.numel()))).values
    return weight.masked_fill(weight.abs() <= threshold, 0) / columns**0.5


def contenders(weight: Any, sparsity: float, x: Any, bias: Any, copies: int) -> dict[str, Call]:
    """What can run here, the dense product first; each checked against float64."""
    import torch
    from torch.nn import functional

    from atp_sparse_gpu._launch import MOST_TOKENS
    from atp_sparse_gpu._packed import pack
    from atp_sparse_gpu._platform import semi_structured_problem, triton_problem
    from atp_sparse_gpu._products import Formats, product
    from atp_sparse_gpu._semi_structured import convert, unfit

    found: dict[str, Call] = {}
    dense = [weight.clone() for _ in range(copies)]
    found["dense"] = lambda i: functional.linear(x, dense[i], bias)
    agrees("dense", found["dense"](0), x, weight, bias)
    if triton_problem() is None:
        packed = [Formats(packed=pack(weight)) for _ in range(copies)]
        route: Any = "bitmask" if len(x) <= MOST_TOKENS else "unpack"
        found[route] = lambda i: product(route, x, packed[i], bias)
        agrees(route, found[route](0), x, weight, bias)
    problem = semi_structured_problem() or unfit(weight.dtype, tuple(weight.shape))
    if sparsity == 0.5 and problem is None:
        groups = weight.view(len(weight), -1, 4)
        smaller = groups.abs().argsort(2)[:, :, :2]
        halved = groups.scatter(2, smaller, 0).view(weight.shape)
        semi = [convert(halved) for _ in range(copies)]
        found["2:4"] = lambda i: functional.linear(x, semi[i], bias)
        agrees("2:4", found["2:4"](0), x, halved, bias)
    if len(x) == 1 and weight.dtype == torch.float16 and weight.is_cuda:
        try:
            import macko_spmv
        except ImportError:
            return found
        compressed = [macko_spmv.compress(copy) for copy in dense]
        found["macko"] = lambda i: macko_spmv.multiply(compressed[i], x[0]) + bias
        agrees("macko", found["macko"](0).view(1, -1), x, weight, bias)
    return found


def agrees(name: str, y: Any, x: Any, weight: Any, bias: Any) -> None:
    """Stop where a contender's output is not the product, to a few roundings of its dtype."""
    import torch
    from torch.nn import functional

    exact = functional.linear(x.double(), weight.double(), bias.double())
    terms = functional.linear(x.double().abs(), weight.double().abs(), bias.double().abs())
    error = float(((y.double() - exact).abs() / terms).max())
    if not error <= 4 * torch.finfo(y.dtype).eps:
        sys.exit(f"error: {name} is off by {error:.2e} of the sum of its terms; nothing is timed")


def in_turn(
    found: Mapping[str, Call], copies: int, clock: Clock, rounds: int
) -> dict[str, dict[str, float]]:
    """Median time, and median and range of the ratio to dense, of each contender."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for round_ in range(rounds + 1):
        for name, call in found.items():
            took = clock(call, copies)
            if round_:  # the first warms up
                seconds[name].append(took)
    result = {}
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds["dense"], times, strict=True)]
        result[name] = {
            "microseconds": round(1e6 * statistics.median(times), 3),
            "speedup": round(statistics.median(ratios), 3),
            "speedup_low": round(min(ratios), 3),
            "speedup_high": round(max(ratios), 3),
        }
    return result


def cuda_clock() -> Clock:
    """Times on the GPU. It sleeps while the calls are queued, so that no launch is waited for."""
    import torch

    def seconds(call: Call, copies: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(200_000 * copies)
        begin.record()
        for i in range(copies):
            call(i)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / copies

    return seconds


if __name__ == "__main__":
    main()
