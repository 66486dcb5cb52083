"""What this machine can run, and what is missing."""

from __future__ import annotations

import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version

import torch

from atp_core.errors import UsageError

__all__ = ["check", "interpreted", "runtime_info", "semi_structured_problem", "triton_problem"]


def interpreted() -> bool:
    """Whether Triton's interpreter is on: kernels run on the CPU, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_problem() -> str | None:
    """Why the Triton kernels cannot run here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (Linux: pip install 'triton>=3')"
    if interpreted():
        return None
    if torch.version.hip is not None:
        return "the kernels are written for NVIDIA GPUs"
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        return f"the kernels need compute capability 8.0, {torch.cuda.get_device_name()} has less"
    return None


def semi_structured_problem() -> str | None:
    """Why 2:4 products cannot run here, or None."""
    if not torch.cuda.is_available():
        return "2:4 products need a CUDA device"
    if torch.version.hip is not None:
        return "2:4 products are of NVIDIA GPUs"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"2:4 products need compute capability 8.0, {torch.cuda.get_device_name()} has less"
    if not torch.backends.cusparselt.is_available():
        return f"torch {torch.__version__} is built without cuSPARSELt, which 2:4 products need"
    return None


def check() -> None:
    """Make sure that something can run here.

    Raises:
        UsageError: there is no CUDA device, and Triton's interpreter is off.
    """
    if interpreted() and triton_problem() is None:
        return
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else f"; torch {torch.__version__} is built without CUDA"
        raise UsageError(
            f"no CUDA device that torch can use{built}. The runtime sparse-gpu needs an NVIDIA "
            "GPU; on the CPU use sparse-cpu (pip install atp-prune-sparse-cpu) or dense"
        )
    if (missing := triton_problem()) and (also := semi_structured_problem()):
        raise UsageError(f"the runtime sparse-gpu cannot run here: {missing}, and {also}")


def runtime_info() -> dict[str, str]:
    """What is live: device, versions, and for each kind of kernel whether it can run."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "not installed"
    if interpreted():
        device = "CPU, in Triton's interpreter (TRITON_INTERPRET=1): for tests, not for speed"
    elif torch.cuda.is_available():
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        device = f"{torch.cuda.get_device_name()}, compute capability {capability}"
    else:
        device = "none: torch sees no CUDA device"
    idle = None if interpreted() or torch.cuda.is_available() else "no CUDA device"
    return {
        "runtime": "sparse-gpu",
        "device": device,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "triton": triton,
        "bitmask": triton_problem() or idle or "available",
        "2:4": semi_structured_problem() or "available",
    }
