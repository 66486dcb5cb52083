"""Checks of `atp_workloads`: what a model is timed on runs, as often as it is asked to."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...records import Workload, WorkRequest
from .._check import CheckSkipped, checker, require
from .._walk import Walk, state_bits

__all__ = ["CHECKS"]

CHECKS: list[tuple[str, Callable[[Walk], None]]] = []
_check = checker(CHECKS)


@_check("can be timed, on work that runs again and again")
def _runs(walk: Walk) -> None:
    session = walk.session()
    if "atp_workloads" not in session.plugins.status(walk.plugin).hooks:
        raise CheckSkipped("it has no atp_workloads, so its models have no `atp bench`")
    request = WorkRequest(batch_sizes=(1, 2), tokens=8, steps=2)
    before = state_bits(session.loaded)
    found: list[Workload] = list(
        session.plugins.caller("atp_workloads", walk.plugin)(
            loaded=session.loaded, request=request
        )
    )
    names = sorted({work.name for work in found})
    for name in names:
        batches = sorted(work.batch for work in found if work.name == name)
        require(batches == [1, 2], f"batches of 1 and 2 were asked for; {name} has {batches}")
    for work in found:
        with torch.inference_mode():
            for _ in range(2):
                work.start()()
    require(state_bits(session.loaded) == before, "being timed changed the model")
