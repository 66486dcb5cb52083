"""Objectives that end the process they are measured in, or fail; what workers are tried with."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atp_core.errors import DataError, NumericalError
from atp_core.hookspecs import hookimpl
from atp_core.records import DataRequest, Evaluation, LoadedModel, Metric, Offer

ATP_HOOK_API = 1


class Objective:
    """Share of zeros in the model's weights; figures that any process gives alike."""

    name = "killing"

    def prepare(self, loaded: LoadedModel, data: DataRequest) -> None:
        pass

    def measure(self, loaded: LoadedModel, data: DataRequest) -> Evaluation:
        self.happen()
        weights = [p for p in loaded.model.parameters() if p.ndim > 1]
        first = float((weights[len(weights) // 2] == 0).double().mean())
        metric = Metric(self.name, first, None, 1, "fraction", False, "search", "", "", "zeros")
        return Evaluation([metric], frozenset())

    def happen(self) -> None:
        raise NotImplementedError


class Killing(Objective):
    """Kills so many of the processes that have measured so often already."""

    def __init__(self) -> None:
        self.measured = 0

    def happen(self) -> None:
        self.measured += 1
        marks = Path(os.environ["ATP_TEST_MARKS"])
        deaths, after = map(int, os.environ["ATP_TEST_DEATHS"].split())
        if self.measured > after and len(list(marks.iterdir())) < deaths:
            (marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Failing(Objective):
    """Fails on every trial."""

    name = "failing"

    def happen(self) -> None:
        raise DataError("this model has nothing to be judged on; give it something")


@hookimpl
def atp_objectives() -> Sequence[Offer]:
    return [Offer("killing", Killing, "kills"), Offer("failing", Failing, "fails")]


class Unsuited:
    """An allocation that suits no model."""

    name = "unsuited"

    def allocate(self, request: Any) -> Any:
        raise NumericalError("no spectrum")


@hookimpl
def atp_allocators() -> Sequence[Offer]:
    return [Offer("unsuited", Unsuited, "suits no model")]
