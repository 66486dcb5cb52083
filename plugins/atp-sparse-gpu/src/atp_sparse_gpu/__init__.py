"""atp-prune plugin that runs pruned linear layers sparse on NVIDIA GPUs. Not measured on a GPU yet.

    from atp_sparse_gpu import accelerate, restore

    report = accelerate(model)      # in place
    restore(model)                  # the dense layers again, bit for bit

torch and triton are imported when a function is first used, so that discovery stays fast.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atp_core.hookspecs import hookimpl
from atp_core.records import Offer

if TYPE_CHECKING:
    from ._accelerate import accelerate, restore
    from ._linear import SparseLinear
    from ._packed import PackedWeight, pack, unpack
    from ._platform import runtime_info

__all__ = [
    "ATP_HOOK_API",
    "PackedWeight",
    "SparseLinear",
    "accelerate",
    "atp_runtimes",
    "pack",
    "restore",
    "runtime_info",
    "unpack",
]

ATP_HOOK_API = 1
"""Lowest version of the hook API that this plugin works with."""

_HOMES = {
    **dict.fromkeys(("accelerate", "restore"), "_accelerate"),
    **dict.fromkeys(("PackedWeight", "pack", "unpack"), "_packed"),
    "SparseLinear": "_linear",
    "runtime_info": "_platform",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = found
    return found


@hookimpl
def atp_runtimes() -> Sequence[Offer]:
    """The runtime of this package."""
    return [
        Offer(
            "sparse-gpu",
            "atp_sparse_gpu._runtime:SparseGpuRuntime",
            "linear layers on NVIDIA GPUs: 2:4, and any zeros for few tokens; not measured yet",
        )
    ]
