"""What runs in a worker: one process that keeps the model and does one job after another."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from atp_core.errors import (
    AtpError,
    DataError,
    GateError,
    ModelError,
    NumericalError,
    PluginError,
    UsageError,
)

__all__ = ["Failed", "Worker"]


_PLAIN = (
    AtpError,
    DataError,
    GateError,
    ModelError,
    NumericalError,
    PluginError,
    UsageError,
)
"""Errors that are made of a message and nothing else."""


@dataclass(frozen=True)
class Failed:
    """A job that ended with an error raised on purpose; it would do so again."""

    error: AtpError


class Worker:
    """Does jobs; the model is loaded for the first and kept for those that follow.

    Args:
        variables: environment that decides which plugins are used and what may be downloaded.
    """

    def __init__(self, variables: dict[str, str]) -> None:
        os.environ.update(variables)
        self._packed: bytes | None = None
        self._work: Callable[[Any], Any] | None = None

    def ready(self) -> None:
        """Answer, once the process is there."""

    def do(self, packed: bytes, job: bytes, threads: int) -> Any:
        """Do a job.

        Args:
            packed: the work, pickled; what was unpickled for the last job is used again.
            job: what to do, pickled.
            threads: to compute with.

        Returns:
            Its result, or the error that it ended with.
        """
        import torch
        from ray import cloudpickle

        torch.set_num_threads(threads)
        try:
            if self._work is None or packed != self._packed:
                self._work = None  # the model goes before the next one comes
                self._work, self._packed = cloudpickle.loads(packed), packed
            return self._work(cloudpickle.loads(job))
        except AtpError as error:
            return Failed(portable(error))


def portable(error: AtpError) -> AtpError:
    """An error that survives the way to another process, with the same text and exit code."""
    from ray import cloudpickle

    try:
        copy = cloudpickle.loads(cloudpickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    except Exception:
        pass  # whatever a class of somebody else's raises when it is made in another way
    for kind in type(error).__mro__:
        if kind in _PLAIN:
            return kind(str(error))
    return AtpError(str(error))
