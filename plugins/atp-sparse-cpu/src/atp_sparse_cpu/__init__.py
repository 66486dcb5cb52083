"""Sparse execution of pruned models on CPUs with AVX-512.

    import atp_sparse_cpu
    report = atp_sparse_cpu.accelerate(model)

The kernels are C, compiled on first use and cached. Where they cannot be, layers stay dense and
one warning says why.
"""

from __future__ import annotations

from collections.abc import Mapping

from ._accelerate import Layer, Report, accelerate, restore
from ._module import SparseLinear

__all__ = ["Layer", "Report", "SparseLinear", "accelerate", "restore", "runtime_info"]


def runtime_info() -> Mapping[str, str]:
    """What is live here: whether kernels run, where they are or why not, threads."""
    import torch

    from ._library import kernels

    found = kernels()
    names = {1: "AVX-512 VBMI2", 2: "AVX-512 BF16", 4: "AVX-512 VNNI"}
    return {
        "kernels": "sparse" if found.library is not None else "dense",
        "instructions": ", ".join(name for bit, name in names.items() if found.features & bit),
        "why": found.reason,
        "threads": str(torch.get_num_threads()),
    }
