"""What is said where it cannot run, and that asking imports nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import atp_sparse_gpu
from atp_core.errors import AtpError, UsageError
from atp_sparse_gpu import _platform
from atp_sparse_gpu._runtime import SparseGpuRuntime


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """A machine that says it has a GPU, of the capability in the dictionary."""
    said = {"capability": (9, 0)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: said["capability"])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return said


@pytest.mark.usefixtures("no_gpu")
def test_no_device() -> None:
    runtime = SparseGpuRuntime()
    with pytest.raises(AtpError, match=r"no CUDA device.*sparse-cpu"):
        runtime.check()
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(UsageError, match="no CUDA device"):
        runtime.accelerate(model)
    assert type(model[0]) is nn.Linear
    found = runtime.info()
    assert "no CUDA device" in found["device"] and found["bitmask"] == "no CUDA device"
    assert found["2:4"] == "2:4 products need a CUDA device"
    json.dumps(dict(found))


def test_without_triton_2_4_is_left(
    gpu: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    _platform.check()
    assert "pip install 'triton>=3'" in (_platform.triton_problem() or "")
    gpu["capability"] = (7, 5)
    with pytest.raises(UsageError, match=r"triton is not installed.*capability 8.0"):
        _platform.check()


def test_old_gpus(gpu: dict[str, tuple[int, int]]) -> None:
    pytest.importorskip("triton", reason="triton is not installed: none for this system")
    assert _platform.triton_problem() is None and _platform.semi_structured_problem() is None
    gpu["capability"] = (7, 5)
    with pytest.raises(UsageError, match="a GPU has less"):
        _platform.check()


def test_weights_on_the_cpu_are_told_to_move(gpu: dict[str, tuple[int, int]]) -> None:
    report = atp_sparse_gpu.accelerate(nn.Sequential(nn.Linear(64, 64)))
    assert "move the model to the GPU first" in report.layers[0].reason
    assert report.sparse_layers == 0 and report.bytes == report.dense_bytes == 64 * 64 * 4


def test_what_core_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row a layer."""
    pytest.importorskip("triton", reason="triton is not installed: none for this system")
    monkeypatch.setattr(_platform, "check", lambda: None)
    monkeypatch.setattr("atp_sparse_gpu._accelerate.check", lambda: None)
    runtime = SparseGpuRuntime()
    model = nn.Sequential(nn.Linear(8, 4))
    [row] = runtime.accelerate(model).layers
    assert (row.name, row.shape, row.kernel) == ("0", (4, 8), "dense")
    assert row.bytes == row.dense_bytes == 4 * 8 * 4 and row.reason
    runtime.restore(model)


def test_the_offer_is_found_and_named_alike() -> None:
    [offer] = atp_sparse_gpu.atp_runtimes()
    assert offer.name == SparseGpuRuntime.name == "sparse-gpu"
    module, _, attribute = str(offer.target).partition(":")
    assert (module, attribute) == (SparseGpuRuntime.__module__, SparseGpuRuntime.__name__)


def test_discovery_imports_nothing_heavy() -> None:
    code = (
        "import sys, atp_sparse_gpu, atp_sparse_gpu._runtime\n"
        "atp_sparse_gpu.atp_runtimes(); atp_sparse_gpu._runtime.SparseGpuRuntime()\n"
        "print([name for name in ('torch', 'triton') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_benchmark_says_that_it_needs_a_gpu() -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "sparse_gpu.py"
    if not script.exists():
        pytest.skip("the benchmarks are not here")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: benchmarks/sparse_gpu.py measures on an NVIDIA GPU")
