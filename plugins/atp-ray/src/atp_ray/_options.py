"""Settings of the executor: known names, the right kind, inside their range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from atp_core.errors import UsageError

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """What users set with ``--executor-options``.

    Attributes:
        address: of a Ray cluster; None is RAY_ADDRESS, or else a cluster of this machine only.
        trial_gpus: GPUs of a worker, also a part of one; None is 1 where the cluster has any.
        trial_cpus: cores that Ray reserves for a worker.
        workers: at most so many; None is what the cluster has room for.
        threads: of each worker; None is OMP_NUM_THREADS where that is set, or else the cores
            shared among the jobs of a round.
        retries: how often a job is tried again after its worker died.
    """

    address: str | None = None
    trial_gpus: float | None = None
    trial_cpus: float = 1.0
    workers: int | None = None
    threads: int | None = None
    retries: int = 2

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """The options in what users gave.

        Raises:
            UsageError: one is unknown, of the wrong kind or outside its range.
        """
        known = [field.name for field in fields(cls)]
        for name, value in given.items():
            if name not in known:
                raise UsageError(
                    f"the ray executor has no option {name!r}; it has {', '.join(known)}"
                )
            if name == "address":
                if not isinstance(value, str):
                    raise UsageError(
                        f"the option 'address' of the ray executor must be one such as "
                        f"10.0.0.1:6379, not {value!r}"
                    )
            elif name in ("trial_gpus", "trial_cpus"):
                _number(name, value)
            else:
                _whole(name, value, least=0 if name == "retries" else 1)
        return cls(**given)


def _number(name: str, value: Any) -> None:
    good = not isinstance(value, bool) and isinstance(value, (int, float))
    if not good or not math.isfinite(value) or value < 0:
        raise UsageError(
            f"the option {name!r} of the ray executor must be a number from 0, not {value!r}"
        )
    if value > 1 and value != int(value):
        raise UsageError(
            f"the option {name!r} of the ray executor must be whole where it is above 1, not "
            f"{value!r}: Ray shares a device or a core, not several"
        )


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(
            f"the option {name!r} of the ray executor must be a whole number from {least}, not "
            f"{value!r}"
        )
