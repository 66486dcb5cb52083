"""atp-prune plugin with the executor "ray": trials and comparison cells on the workers of Ray.

Only hooks live here. Ray and torch are imported when the executor first runs something.
"""

from __future__ import annotations

from collections.abc import Sequence

from atp_core.hookspecs import hookimpl
from atp_core.records import Offer

__all__ = ["ATP_HOOK_API", "atp_executors"]

ATP_HOOK_API = 1
"""Lowest version of the hook API that this plugin works with."""


@hookimpl
def atp_executors() -> Sequence[Offer]:
    """One executor. Its class is imported when it is first used."""
    return [
        Offer("ray", "atp_ray._executor:Ray", "side by side on Ray: cores, GPUs or a cluster"),
    ]
