"""Core's own plugin: what core offers goes through the same hooks as everyone's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .hookspecs import hookimpl
from .records import Calibration, Chain, LoadedModel, Offer, Schedule

if TYPE_CHECKING:
    from .engine.pruning import PruneOptions, PruneReport
    from .methods import Method

__all__ = [
    "ATP_HOOK_API",
    "atp_allocators",
    "atp_executors",
    "atp_methods",
    "atp_prune",
]

ATP_HOOK_API = 1


@hookimpl
def atp_methods() -> Sequence[Offer]:
    """Magnitude, Wanda and SparseGPT."""
    return [
        Offer("magnitude", "atp_core.methods.magnitude:Magnitude", "smallest |W| of a matrix"),
        Offer("sparsegpt", "atp_core.methods.sparsegpt:SparseGPT", "OBS with weight updates"),
        Offer("wanda", "atp_core.methods.wanda:Wanda", "|W| times input norm, per output row"),
    ]


@hookimpl
def atp_allocators() -> Sequence[Offer]:
    """Uniform and ATP."""
    return [
        Offer("atp", "atp_core.allocation.atp:ATP", "arithmetic progression over depth"),
        Offer("uniform", "atp_core.allocation.uniform:Uniform", "the same rate for every block"),
    ]


@hookimpl
def atp_executors() -> Sequence[Offer]:
    """Trials one after another in this process."""
    return [Offer("local", "atp_core.trials.executors:Local", "in this process, one by one")]


@hookimpl(trylast=True)
def atp_prune(
    loaded: LoadedModel,
    chains: Sequence[Chain],
    schedule: Schedule,
    method: Method,
    calibration: Calibration | None,
    options: PruneOptions,
) -> PruneReport:
    """Prune with the engine, whatever the architecture."""
    from .engine.pruning import prune_model

    return prune_model(loaded, chains, schedule, method, calibration, options)
