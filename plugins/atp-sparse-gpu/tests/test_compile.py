"""The kernels compile to machine code of real GPUs, here, where there is none.

Triton brings NVIDIA's assembler. What this proves: the kernels are valid for these GPUs, and the
configurations that are tried fit their registers. It proves no result and no speed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import atp_sparse_gpu._launch as launching
from atp_sparse_gpu import pack
from atp_sparse_gpu._launch import CONFIGS, MOST_TOKENS, Config
from atp_sparse_gpu._packed import SEGMENT

triton = pytest.importorskip("triton", reason="triton is not installed: none for this system")

POINTERS = ("x", "values", "bias", "y", "dense")
TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def compiled(
    name: str,
    dtype: torch.dtype,
    capability: int,
    tokens: int,
    config: Config | None = None,
    offsets: str = "i32",
    ones: bool = False,
) -> Any:
    """One kernel as Triton makes it for a GPU.

    Args:
        name: of the kernel.
        dtype: of weights and inputs.
        capability: 80 for 8.0.
        tokens: what M is.
        config: the first that is tried, or this.
        offsets: integers of the offsets.
        ones: every number that is passed is 1; Triton makes those constants.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from atp_sparse_gpu import _kernels

    if _kernels.INTERPRETED:
        pytest.skip("Triton's interpreter is on")
    config = config or CONFIGS[name][0]
    kernel: Any = getattr(_kernels, f"{name}_kernel")
    constants = {
        "HAS_BIAS": True, "M": tokens, "ROWS": config.rows, "CHUNKS": config.chunks,
        "SEGMENT": SEGMENT, "NATIVE": True,
    }  # fmt: skip
    if ones:
        constants |= dict.fromkeys(("tokens", "n", "k", "row_words", "segments"), 1)
    fixed = {"mask": "*i32", "offsets": f"*{offsets}"}
    signature, aligned = {}, {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
            continue
        other = f"*{TYPES[dtype]}" if argument in POINTERS else "i32"
        signature[argument] = fixed.get(argument, other)
        if argument != "tokens":
            aligned[(i,)] = [["tt.divisibility", 16]]
    used = {
        (i,): constants[argument]
        for i, argument in enumerate(kernel.arg_names)
        if argument in constants
    }
    return triton.compile(
        ASTSource(kernel, signature, used, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": config.warps, "num_stages": config.stages},
    )


def spilled(cubin: bytes, directory: Path) -> bool:
    """Whether the kernel keeps registers in memory, by NVIDIA's own tool."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this triton brings no cuobjdump")
    file = directory / "kernel.cubin"
    file.write_bytes(cubin)
    told = subprocess.run(
        [tool, "-res-usage", file], capture_output=True, text=True, check=True
    ).stdout
    assert "REG:" in told, told
    return "STACK:0" not in told


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_fits_the_registers(name: str, tmp_path: Path) -> None:
    tokens = MOST_TOKENS if name == "dot" else 4
    for config in CONFIGS[name]:
        made = compiled(name, torch.bfloat16, 80, tokens, config)
        assert not spilled(made.asm["cubin"], tmp_path), config


@pytest.mark.parametrize("capability", [80, 89, 90, 100, 120])
@pytest.mark.parametrize("name", CONFIGS)
def test_gpus(name: str, capability: int) -> None:
    tokens = MOST_TOKENS if name == "dot" else 1
    made = compiled(name, torch.bfloat16, capability, tokens)
    assert made.asm["cubin"]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_dtypes_and_wide_offsets(name: str, dtype: torch.dtype) -> None:
    tokens = MOST_TOKENS if name == "dot" else 2
    made = compiled(name, dtype, 90, tokens, offsets="i64")
    text = made.asm["ptx"]
    assert "popc.b32" in text, "the popcount instruction is used"
    assert ("mma." in text) == (name == "dot" and dtype != torch.float32)


@pytest.mark.parametrize("name", CONFIGS)
def test_numbers_that_are_one(name: str) -> None:
    tokens = MOST_TOKENS if name == "dot" else 1
    assert compiled(name, torch.bfloat16, 90, tokens, ones=True).asm["cubin"]


@pytest.mark.parametrize(("name", "tokens"), [("fma", 1), ("fma", 3), ("dot", 16), ("unpack", 0)])
def test_what_a_gpu_would_be_given(
    name: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the launch: configurations are tried in turn, each with every argument."""
    from atp_sparse_gpu import _kernels

    if _kernels.INTERPRETED:
        pytest.skip("Triton's interpreter is on")
    kernel: Any = getattr(_kernels, f"{name}_kernel")
    launched: list[dict[str, Any]] = []

    def run(*args: Any, grid: Any, warmup: bool, **given: Any) -> None:
        positional = dict(zip(kernel.arg_names, args, strict=False))
        assert not positional.keys() & given.keys()
        everything = positional | given
        launched.append({**everything, "grid": grid(everything)})

    def bench(call: Callable[[], object], quantiles: Any) -> list[float]:
        call()
        # The last configuration is the quickest.
        return [1.0 / len(launched)] * 3

    monkeypatch.setattr(kernel, "run", run)
    tuned = launching._tuned(kernel, CONFIGS[name])
    vars(tuned)["do_bench"] = bench  # where the property keeps the GPU's clock
    monkeypatch.setattr(launching, "_tuned", lambda *_: tuned)
    launching._kernel.cache_clear()
    weight = torch.randn(100, 1000)
    packed = pack(weight)
    parts = (packed.mask, packed.values, packed.offsets)
    for _ in range(2):  # the second time nothing is tried
        if name == "unpack":
            launching.launch_unpack(*parts, 1000)
        else:
            launching.launch_linear(torch.randn(tokens, 1000), *parts, None, 1000)
    launching._kernel.cache_clear()
    configs = CONFIGS[name]
    assert len(launched) == len(configs) + 2
    for found, config in zip(launched, [*configs, configs[-1], configs[-1]], strict=True):
        assert set(kernel.arg_names) <= found.keys()
        assert (found["ROWS"], found["CHUNKS"]) == (config.rows, config.chunks)
        assert (found["num_warps"], found["num_stages"]) == (config.warps, config.stages)
        assert found["grid"][0] == -(-100 // config.rows)
        assert (found["n"], found["k"], found["row_words"], found["segments"]) == (100, 1000, 32, 4)
        assert found["NATIVE"] is True
        if name == "unpack":
            assert found["grid"][1] == -(-125 // config.chunks)
        else:
            assert found["tokens"] == tokens <= found["M"] and found["HAS_BIAS"] is False
