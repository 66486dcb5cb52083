"""atp-prune plugin with the pruning method "ria" and the allocation "staircase".

Only hooks live here, and nothing that imports torch: this module is imported whenever `atp` starts.
"""

from __future__ import annotations

from collections.abc import Sequence

from atp_core.hookspecs import hookimpl
from atp_core.records import Offer

__all__ = ["ATP_HOOK_API", "atp_allocators", "atp_methods"]

ATP_HOOK_API = 1
"""Lowest version of the hook API that this plugin works with."""


@hookimpl
def atp_methods() -> Sequence[Offer]:
    """One method. Its class is imported when it is first used."""
    return [
        Offer(
            "ria",
            "atp_ria_staircase._ria:RIA",
            "relative importance in row and column, times the root of the input's norm",
        ),
    ]


@hookimpl
def atp_allocators() -> Sequence[Offer]:
    """One allocation. Its class is imported when it is first used."""
    return [
        Offer(
            "staircase",
            "atp_ria_staircase._staircase:Staircase",
            "three steps: early blocks denser, late ones sparser",
        ),
    ]
