"""The executor "ray": jobs side by side, on workers that each keep a model of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from atp_core.errors import UsageError

from ._cluster import Cluster
from ._options import Options

if TYPE_CHECKING:
    from ._pool import Pool

__all__ = ["Ray"]

J = TypeVar("J")
R = TypeVar("R")

_PASSED_ON = (
    "ATP_DISABLE_PLUGINS",
    "ATP_PLUGIN_TIMEOUT",
    "ATP_STRICT_PLUGINS",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)
"""Variables that decide about results or downloads. No secrets: Ray shows a worker's arguments."""


class Ray:
    """Does jobs on the workers of a Ray cluster.

    The cluster is the one at the option "address" or at RAY_ADDRESS. Without either, one of this
    machine's cores and GPUs is started that listens on the loopback address only, and is stopped
    by `close`. Each worker loads the model once.

    Options: those of `Options`.
    """

    name = "ray"
    remote = True

    def __init__(self) -> None:
        self._options = Options()
        self._cluster: Cluster | None = None
        self._pool: Pool | None = None

    def configure(self, options: Mapping[str, Any]) -> None:
        """Take the options.

        Raises:
            UsageError: one is unknown or wrong.
        """
        self._options = Options.of(options)

    def run(self, work: Callable[[J], R], jobs: Sequence[J]) -> Iterator[tuple[int, R]]:
        """Do every job; each position with its result, as jobs end.

        Raises:
            UsageError: Ray is not installed, no cluster answers, or it has too few GPUs.
            AtpError: what a job raised, of several the first; or workers keep dying.
        """
        if not jobs:
            return
        pool, cluster = self._start()
        from ray import cloudpickle

        packed = cloudpickle.dumps(work)
        sent = [cloudpickle.dumps(job) for job in jobs]
        threads = self._threads(cluster, min(pool.limit, len(jobs)))
        yield from pool.run(packed, sent, threads)

    def close(self) -> None:
        """End the workers, and the cluster if this started it."""
        pool, cluster = self._pool, self._cluster
        self._pool = self._cluster = None
        if pool is not None:
            pool.close()
        if cluster is not None:
            cluster.close()

    def _start(self) -> tuple[Pool, Cluster]:
        if self._pool is not None and self._cluster is not None:
            return self._pool, self._cluster
        options = self._options
        cluster = self._cluster = Cluster(options.address)
        gpus = options.trial_gpus
        if gpus is None:
            gpus = 1.0 if cluster.gpus else 0.0
        if cluster.own and gpus > cluster.gpus:
            raise UsageError(
                f"a trial asks for {gpus:g} GPUs and this machine has {cluster.gpus:g} for Ray; "
                "lower --trial-gpus, or give the address of a cluster with --ray-address"
            )
        if cluster.own and options.trial_cpus > cluster.cores:
            raise UsageError(
                f"a trial asks for {options.trial_cpus:g} cores and this machine has "
                f"{cluster.cores} for Ray; lower trial_cpus in --executor-options"
            )
        room = cluster.room(options.trial_cpus, gpus)
        limit = room if options.workers is None else min(room, options.workers)
        variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        from ._pool import Pool

        self._pool = Pool(limit, options.trial_cpus, gpus, options.retries, variables)
        return self._pool, cluster

    def _threads(self, cluster: Cluster, workers: int) -> int:
        """Threads of a worker, where so many work at the same time."""
        if self._options.threads is not None:
            return self._options.threads
        asked = os.environ.get("OMP_NUM_THREADS", "")
        if asked.isdecimal() and int(asked) > 0:
            return int(asked)
        return max(1, min(cluster.cores // workers, cluster.most_cores()))
