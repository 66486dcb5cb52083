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
    "atp_runtimes",
]

ATP_HOOK_API = 1


@hookimpl
def atp_methods() -> Sequence[Offer]:
    """Magnitude, Wanda, DSnoT, SparseGPT and ALPS."""
    return [
        Offer("alps", "atp_core.methods.alps:ALPS", "least squares on a support found by ADMM"),
        Offer("dsnot", "atp_core.methods.dsnot:DSnoT", "Wanda's mask, weights swapped in a row"),
        Offer("magnitude", "atp_core.methods.magnitude:Magnitude", "smallest |W| of a matrix"),
        Offer("sparsegpt", "atp_core.methods.sparsegpt:SparseGPT", "OBS with weight updates"),
        Offer("wanda", "atp_core.methods.wanda:Wanda", "|W| times input norm, per output row"),
    ]


@hookimpl
def atp_allocators() -> Sequence[Offer]:
    """Uniform, ATP and its rivals."""
    folder = "atp_core.allocation"
    return [
        Offer("alphapruning", f"{folder}.alphapruning:AlphaPruning", "spectra of the weights"),
        Offer("als", f"{folder}.als:ALS", "redundancy between the inputs of blocks, ±0.2"),
        Offer("atp", f"{folder}.atp:ATP", "arithmetic progression over depth"),
        Offer(
            "atp-sensitivity",
            f"{folder}.sensitivity:Sensitivity",
            "atp, bent by what each block costs alone; found by trials",
        ),
        Offer("bayes-gp", f"{folder}.bayesian:GaussianProcess", "Bayesian search (Optuna's GP)"),
        Offer("bayes-tpe", f"{folder}.bayesian:ParzenEstimator", "Bayesian search (Optuna's TPE)"),
        Offer("dlp", f"{folder}.dlp:DLP", "mean Wanda scores of the blocks"),
        Offer("dsa", f"{folder}.dsa:DSA", "variance of the logarithms of Wanda scores"),
        Offer("ecoflap", f"{folder}.ecoflap:ECoFLaP", "zeroth-order gradients of the loss"),
        Offer("er", f"{folder}.er:ER", "density by the widths of a matrix"),
        Offer("er-plus", f"{folder}.er:ERPlus", "ERK with the last weight dense"),
        Offer("erk", f"{folder}.er:ERK", "density by widths and kernel sizes"),
        Offer("global", f"{folder}.global_magnitude:Global", "one threshold for all weights"),
        Offer("lamp", f"{folder}.lamp:LAMP", "one threshold for layer-adaptive scores"),
        Offer("losa", f"{folder}.losa:LoSA", "similarity between the inputs of blocks, mild"),
        Offer("owl", f"{folder}.owl:OWL", "share of outliers among Wanda scores"),
        Offer("power", f"{folder}.power:Power", "rises with a power of depth; ATP is power 1"),
        Offer("uniform", f"{folder}.uniform:Uniform", "the same rate for every block"),
    ]


@hookimpl
def atp_executors() -> Sequence[Offer]:
    """Trials one after another in this process."""
    return [Offer("local", "atp_core.trials.executors:Local", "in this process, one by one")]


@hookimpl
def atp_runtimes() -> Sequence[Offer]:
    """Torch's own dense kernels."""
    return [Offer("dense", "atp_core.runtime.dense:Dense", "torch's own kernels, zeros and all")]


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
