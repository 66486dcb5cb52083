"""Timing one model dense and sparse, in one process, in pairs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ._runtimes import accelerated, choose_runtime
from ._session import Session
from .benched import BenchedWorkload, BenchResult
from .checkpoint import collect_provenance
from .errors import UnknownNameError, UsageError
from .loading import shared_copy
from .records import LoadedModel, Workload, WorkRequest

__all__ = ["Benching"]

_WARM_UP = 2  # passes of each, which are not counted


@dataclass(frozen=True)
class Benching:
    """What to time.

    Attributes:
        session: of the model.
        runtime: name of the sparse runtime, or "auto".
        modes: names of the plugin's workloads; none for all.
        request: how large the work is.
        rounds: pairs of passes.
        threads: of torch; None leaves them.
    """

    session: Session
    runtime: str
    modes: Sequence[str]
    request: WorkRequest
    rounds: int
    threads: int | None

    def run(self) -> BenchResult:
        """Time dense against sparse.

        Two models take part that share whatever is dense in both, so that neither waits for the
        other to be built. Each round runs one pass of each, and the order changes from round to
        round.

        Raises:
            AtpError: the plugin's models cannot be timed, no runtime can run, or a mode is
                unknown.
        """
        began = time.perf_counter()
        session = self.session
        if "atp_workloads" not in session.plugins.status(session.plugin).hooks:
            raise UsageError(
                f"plugin {session.plugin!r}, which handles {session.source.text}, does not say "
                "what its models are timed on (atp_workloads); upgrade it, or time the model "
                "with code of your own and atp_core.accelerate"
            )
        with _threads(self.threads), session.whole_model_on_device():
            loaded = session.loaded
            device = next(loaded.model.parameters()).device
            runtime = choose_runtime(session.plugins, self.runtime, device.type)
            dense = self._workloads(loaded)
            twin = replace(loaded, model=shared_copy(loaded.model), cache={})
            with session.progress.task(f"preparing {runtime.name}", 1) as advance:
                done = accelerated(twin.model, runtime)
                advance("")
            sparse = self._workloads(twin)
            times = []
            total = len(dense) * self.rounds
            with session.progress.task("timing", total) as advance, torch.inference_mode():
                for one, other in zip(dense, sparse, strict=True):
                    times.append(self._pairs(one, other, device, advance))
            size = _bytes(loaded)
            layers = done.acceleration
            return BenchResult(
                source=session.source.text,
                plugin=session.plugin,
                runtime=runtime.name,
                info=dict(done.info),
                device=str(device),
                dtype=str(next(loaded.model.parameters()).dtype).removeprefix("torch."),
                threads=torch.get_num_threads(),
                acceleration=layers,
                dense_bytes=size,
                sparse_bytes=size - layers.dense_bytes + layers.bytes,
                workloads=times,
                environment=collect_provenance(
                    seed=self.request.seed,
                    plugin_distribution=session.plugins.distribution(session.plugin),
                ),
                seconds=time.perf_counter() - began,
            )

    def _workloads(self, loaded: LoadedModel) -> list[Workload]:
        session = self.session
        found: Sequence[Workload] = session.plugins.caller("atp_workloads", session.plugin)(
            loaded=loaded, request=self.request
        )
        names = list(dict.fromkeys(work.name for work in found))
        for mode in self.modes:
            if mode not in names:
                raise UnknownNameError("mode", mode, names)
        return [work for work in found if not self.modes or work.name in self.modes]

    def _pairs(
        self,
        dense: Workload,
        sparse: Workload,
        device: torch.device,
        advance: Callable[[str], None],
    ) -> BenchedWorkload:
        """The times of both, one pair a round."""
        for _ in range(_WARM_UP):
            _timed(dense, device)
            _timed(sparse, device)
        seconds: tuple[list[float], list[float]] = ([], [])
        for i in range(self.rounds):
            pair = ((dense, seconds[0]), (sparse, seconds[1]))
            for work, into in pair if i % 2 == 0 else pair[::-1]:
                into.append(_timed(work, device))
            advance(f"{dense.name}, batch {dense.batch}")
        return BenchedWorkload(
            name=dense.name,
            batch=dense.batch,
            unit=dense.unit,
            items=dense.items,
            convention=dense.convention,
            dense=seconds[0],
            sparse=seconds[1],
        )


def _timed(work: Workload, device: torch.device) -> float:
    run = work.start()
    # With one thread its own clock leaves out what other programs take.
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    _wait(device)
    began = clock()
    run()
    _wait(device)
    return clock() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _bytes(loaded: LoadedModel) -> int:
    """What parameters and buffers take; those that share memory count once."""
    model: Any = loaded.model
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.nbytes for t in tensors}.values())


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
