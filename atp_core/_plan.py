"""What a run would do, worked out on the meta device: chains, schedules, trials, memory, time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import torch

from ._memory import room_for
from ._session import Session
from ._stream_time import streaming_seconds
from ._workflow import check_settings, given_schedule, trial_samples
from .allocation import SearchingAllocator
from .allocation.betas import beta_text
from .allocation.uniform import Uniform
from .recipe import bytes_of
from .records import Chain, LoadedModel
from .results import PlanResult
from .trials.beta import Adaptive, Grid

__all__ = ["make_plan"]


def make_plan(session: Session) -> PlanResult:
    """The plan of a session's recipe; loads no weights unless the model is in memory already.

    Raises:
        UsageError: β is outside its range.
    """
    recipe = session.recipe
    method = session.method()
    loaded = session.loaded if session.source.model is not None else session.load(meta=True)
    chains = session.locate(loaded)
    allocator = session.allocator()
    check_settings(session, allocator)
    limit = session.beta_limit(chains)
    trials: list[float] = []
    most = 0
    schedules = {}
    notes: list[str] = []
    if recipe.schedule is not None:
        schedules["given"] = given_schedule(session, chains)
    elif getattr(allocator, "needs", None):
        notes.append(f"{allocator.name} looks at the weights, so its rates are not known yet")
    elif hasattr(allocator, "search"):
        schedules["uniform"] = session.allocate(Uniform(), chains)
        most = cast(SearchingAllocator, allocator).trials(session.request(allocator, chains))
    elif not getattr(allocator, "takes_beta", False):
        schedules[allocator.name] = session.allocate(allocator, chains)
    elif not isinstance(recipe.beta, str):
        label = f"β = {beta_text(recipe.beta, 6)}"
        schedules[label] = session.allocate(allocator, chains, beta=recipe.beta)
    else:
        schedules["uniform"] = session.allocate(allocator, chains, beta=0.0)
        schedules[f"steepest (β = {limit:.4g})"] = session.allocate(allocator, chains, beta=limit)
        if recipe.beta == "search":
            if recipe.beta_step is not None:
                trials = Grid(limit, recipe.beta_step)([])
                most = len(trials)
            else:
                adaptive = Adaptive(limit)
                trials, most = adaptive([]), adaptive.most
            varied = len(session.beta_limits(chains)) if recipe.beta_per_chain else 0
            if varied > 1:
                most += most * varied
    defaults = loaded.defaults
    samples = recipe.samples or defaults.get("samples")
    seqlen = recipe.seqlen or defaults.get("seqlen")
    searched = recipe.search_samples or defaults.get("search_samples")
    trial = trial_samples(samples, recipe, method, defaults) if samples else None
    memory = _memory(loaded, chains, samples if method.calibrated else 0, seqlen)
    seconds = _seconds(loaded, chains, most, samples, trial, searched, seqlen, method.calibrated)
    parts: dict[str, int] = {}
    if recipe.max_memory is not None:
        need = session.memory_need(loaded)
        room = room_for(need, bytes_of(recipe.max_memory))
        memory = room.peak
        parts = {
            **need.parts,
            "activations": need.most - sum(need.parts.values()) if not room.on_disk else need.batch,
        }
        where = "on disk" if room.on_disk else "in memory"
        notes.append(f"weights are streamed from disk; activations wait {where}")
        if seconds is not None:
            seconds += streaming_seconds(session, loaded, chains, method, most)
    return PlanResult(
        source=session.source.text,
        plugin=session.plugin,
        reason=session.recognition.reason,
        method=recipe.method,
        chains=chains,
        schedules=schedules,
        trials=trials,
        most_trials=most,
        beta_limit=limit,
        samples=samples if method.calibrated else 0,
        seqlen=seqlen,
        memory_bytes=memory,
        memory_parts=parts,
        notes=notes,
        seconds=seconds,
    )


def _memory(
    loaded: LoadedModel, chains: Sequence[Chain], samples: int | None, seqlen: int | None
) -> int:
    """Weights, their snapshot, and the activations that stand before a block, in bytes."""
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    first = chains[0].blocks[0].weights[0]
    size = first.tensor.element_size()
    snapshot = sum(chain.parameters for chain in chains) * size
    activations = (samples or 0) * (seqlen or 0) * first.shape[1] * size
    return weights + snapshot + activations


def _seconds(
    loaded: LoadedModel,
    chains: Sequence[Chain],
    trials: int,
    samples: int | None,
    trial: int | None,
    searched: int | None,
    seqlen: int | None,
    calibrated: bool,
) -> float | None:
    """Matrix products of the whole run over this machine's measured rate, in seconds.

    Each product is 2 operations a weight and token; a pruning runs every block twice over its
    samples, an evaluation once. None where the number of tokens is not known.
    """
    if samples is None or trial is None or searched is None or seqlen is None:
        return None
    weights = sum(chain.parameters for chain in chains)
    final = 2 if trials else 1
    prunings = (trials * trial + final * samples) * 2 if calibrated else 0
    evaluations = (trials + 2 * final + 1) * searched
    operations = 2.0 * weights * seqlen * (prunings + evaluations)
    return operations / _rate(next(iter(loaded.model.parameters())).dtype)


def _rate(dtype: torch.dtype) -> float:
    """Operations a second of a mid-sized matrix product, measured now on the CPU."""
    a: Any = torch.ones(512, 1024, dtype=dtype)
    b: Any = torch.ones(1024, 1024, dtype=dtype)
    a @ b
    started = time.perf_counter()
    rounds = 0
    while time.perf_counter() - started < 0.1:
        a @ b
        rounds += 1
    return rounds * 2.0 * 512 * 1024 * 1024 / (time.perf_counter() - started)
