"""Prune transformers with layer-wise sparsity that rises over depth.

    import atp_core

    result = atp_core.prune("embedded:smollm2-135m", sparsity=0.6, output="smollm2-60")

The functions are imported when first used, so that importing this package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        accelerate,
        bench,
        compare,
        diagnose,
        evaluate,
        export,
        inspect,
        load,
        plan,
        prune,
        search,
    )
    from .benched import BenchResult
    from .compared import CompareResult
    from .diagnosed import DiagnoseResult
    from .exported import ExportResult
    from .recipe import Recipe
    from .records import Schedule
    from .results import EvaluateResult, InspectResult, PlanResult, PruneResult, SearchResult

__version__ = "0.1.0"

__all__ = [
    "BenchResult",
    "CompareResult",
    "DiagnoseResult",
    "EvaluateResult",
    "ExportResult",
    "InspectResult",
    "PlanResult",
    "PruneResult",
    "Recipe",
    "Schedule",
    "SearchResult",
    "__version__",
    "accelerate",
    "bench",
    "compare",
    "diagnose",
    "evaluate",
    "export",
    "inspect",
    "load",
    "plan",
    "prune",
    "search",
]

_HOMES = {
    **dict.fromkeys(("accelerate", "bench", "compare", "diagnose", "evaluate"), "api"),
    **dict.fromkeys(("export", "inspect"), "api"),
    **dict.fromkeys(("load", "plan", "prune", "search"), "api"),
    **dict.fromkeys(
        ("EvaluateResult", "InspectResult", "PlanResult", "PruneResult", "SearchResult"),
        "results",
    ),
    "BenchResult": "benched",
    "CompareResult": "compared",
    "DiagnoseResult": "diagnosed",
    "ExportResult": "exported",
    "Recipe": "recipe",
    "Schedule": "records",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
