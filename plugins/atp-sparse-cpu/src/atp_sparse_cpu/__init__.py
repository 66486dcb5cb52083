"""CPU runtime for unstructured-sparse models: packed linear layers with kernels in C.

::

    import atp_sparse_cpu

    report = atp_sparse_cpu.accelerate(model)   # in place
    ...
    atp_sparse_cpu.restore(model)

torch is imported when something here is first used, so that discovery stays fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from atp_core.hookspecs import hookimpl
from atp_core.records import Offer

if TYPE_CHECKING:
    from ._accelerate import accelerate, restore
    from ._library import runtime_info
    from ._linear import SparseLinear
    from ._report import AccelerationReport, LayerReport

__all__ = [
    "ATP_HOOK_API",
    "AccelerationReport",
    "LayerReport",
    "SparseLinear",
    "accelerate",
    "atp_runtimes",
    "restore",
    "runtime_info",
]

ATP_HOOK_API = 1
"""Lowest version of the hook API that this plugin works with."""

_HOMES = {
    "AccelerationReport": "_report",
    "LayerReport": "_report",
    "SparseLinear": "_linear",
    "accelerate": "_accelerate",
    "restore": "_accelerate",
    "runtime_info": "_library",
}


@hookimpl
def atp_runtimes() -> Sequence[Offer]:
    """The runtime "sparse-cpu"."""
    return [
        Offer(
            "sparse-cpu", "atp_sparse_cpu._runtime:SparseCpu", "packed linear layers on the CPU"
        )
    ]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
