"""What a plugin may offer. A plugin implements any subset; arguments it does not need it may omit.

The first group walks one model from its source to a saved directory. After `atp_recognize` has
settled which plugin handles a source, the others are asked of that plugin alone. The second
group registers things by name, for every plugin's models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from .records import (
    Calibration,
    Chain,
    DataRequest,
    Evaluation,
    LoadedModel,
    LoadRequest,
    Offer,
    Recognition,
    Schedule,
    Source,
    Split,
    Workload,
    WorkRequest,
)

if TYPE_CHECKING:
    import click
    from lm_eval.api.model import LM

    from .engine.pruning import PruneOptions, PruneReport
    from .methods import Method

__all__ = ["HOOK_API_VERSION", "hookimpl", "hookspec"]

HOOK_API_VERSION = 1
"""Version of this file. A plugin declares the lowest it works with as `ATP_HOOK_API`."""

hookspec = pluggy.HookspecMarker("atp_prune")
hookimpl = pluggy.HookimplMarker("atp_prune")


# --- one model, from source to saved directory ------------------------------------------------


@hookspec
def atp_recognize(source: Source) -> Recognition | None:
    """Say whether this plugin handles `source`, how surely, and why.

    Called on every plugin before anything is loaded: read names and config files only, do not
    import torch. None means no. The surest plugin wins; a tie is an error naming both.
    """


@hookspec(firstresult=True)
def atp_load(source: Source, request: LoadRequest) -> LoadedModel:
    """Load `source` in eval mode on the CPU, or on the meta device if `request.meta`.

    On the meta device too if `request.stream`, with its weights as `LoadedModel.store`.

    Read weights from safetensors, never from pickles. Raise `ModelError` for a missing,
    truncated or unsupported checkpoint.
    """


@hookspec(firstresult=True)
def atp_locate(loaded: LoadedModel) -> Sequence[Chain]:
    """Locate prunable layers: the chains, their blocks and prunable weights, in execution order.

    Must work on the meta device, change nothing, and include weights that are not `nn.Linear`.
    Raise `ModelError` naming the architecture where no chain is found.
    """


@hookspec(firstresult=True)
def atp_calibrate(loaded: LoadedModel, data: DataRequest) -> Calibration:
    """Return calibration batches and the forward call that drives all chains.

    Called once a run. Hold out the search split before choosing samples.
    """


@hookspec(firstresult=True)
def atp_prune(
    loaded: LoadedModel,
    chains: Sequence[Chain],
    schedule: Schedule,
    method: Method,
    calibration: Calibration | None,
    options: PruneOptions,
) -> PruneReport:
    """Prune the located weights in place, block by block, to the rates of `schedule`.

    Core implements this for every model (trylast); replace it only where an architecture needs
    its own procedure. `calibration` is None when `method` takes no statistics.
    """


@hookspec(firstresult=True)
def atp_evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None
) -> Evaluation:
    """Measure the model on the "search" or the "report" split.

    The first metric returned is the default objective of a search. `metrics` restricts the
    result to these names; None is the plugin's default set.
    """


@hookspec(firstresult=True)
def atp_lm(loaded: LoadedModel, batch_size: int) -> LM:
    """Wrap the model for the tasks of lm-eval, e.g. as `lm_eval.models.huggingface.HFLM`.

    Optional: without it a model has no `--tasks`. The model is already on its device.
    """


@hookspec(firstresult=True)
def atp_workloads(loaded: LoadedModel, request: WorkRequest) -> Sequence[Workload]:
    """Say what the model is timed on by `atp bench`, with random inputs of the sizes asked for.

    Optional: without it a model has no `atp bench`. The model is already on its device.
    """


@hookspec(firstresult=True)
def atp_save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write the model to the empty `directory` in its ecosystem's own layout, safetensors only.

    Tokenizer or processor included. Return the files that hold weights.
    """


# --- what else a plugin offers -----------------------------------------------------------------


@hookspec
def atp_methods() -> Sequence[Offer]:
    """Offer pruning methods: factories of `atp_core.methods.Method`."""


@hookspec
def atp_allocators() -> Sequence[Offer]:
    """Offer allocations of sparsity over blocks: factories of `atp_core.allocation.Allocator`."""


@hookspec
def atp_objectives() -> Sequence[Offer]:
    """Offer search objectives: factories of `atp_core.trials.Objective`."""


@hookspec
def atp_executors() -> Sequence[Offer]:
    """Offer ways to run trials and cells: factories of `atp_core.trials.Executor`."""


@hookspec
def atp_runtimes() -> Sequence[Offer]:
    """Offer ways to execute pruned models: factories of `atp_core.runtime.Runtime`."""


@hookspec
def atp_commands() -> Sequence[click.Command]:
    """Offer subcommands of `atp`."""


@hookspec
def atp_examples() -> Sequence[Offer]:
    """Offer tiny models that prove this plugin: functions of an empty directory to write them to.

    Each returns an `atp_core.testing.Example`. Tests and `atp plugins check` run them.
    """
