"""The cluster: one by address, or one of this machine that nobody else can reach."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from atp_core.errors import AtpError, UsageError

__all__ = ["Cluster"]

_LOOPBACK = "127.0.0.1"

_TOKEN = secrets.token_hex(32)
"""Secret of the clusters that this process starts. Other users of the machine do not have it."""

_STORE_BYTES = 100 * 2**20
"""Ray's shared memory. Jobs and results are small; its default takes a third of the machine."""


_ANSWER_SECONDS = 10.0


class Cluster:
    """A cluster that is connected to, or started, and left or stopped.

    Args:
        address: where it is; None is RAY_ADDRESS, or else one of this machine is started.

    Raises:
        UsageError: no cluster answers at the address.
        AtpError: no cluster can be started.
    """

    def __init__(self, address: str | None) -> None:
        self._before = {name: os.environ.get(name) for name in _VARIABLES}
        # Nothing is told to Ray's authors about who runs what.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._messages = contextlib.ExitStack()
        address = address or os.environ.get("RAY_ADDRESS") or None
        self.own = address in (None, "local") and not _connected()
        try:
            if _connected():
                self._leave = False  # the caller's own connection, which stays as it is
                return
            self._leave = True
            self._messages.enter_context(_messages_on_stderr())
            if address in (None, "local"):
                _start()
            else:
                _connect(str(address))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the cluster if this started it, else leave it as it was found."""
        ray = _ray()
        if getattr(self, "_leave", False) and ray.is_initialized():
            ray.shutdown()
        self._leave = False
        self._messages.close()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    @property
    def cores(self) -> int:
        """Cores of the cluster."""
        return max(1, int(self._total("CPU")))

    @property
    def gpus(self) -> float:
        """GPUs of the cluster."""
        return self._total("GPU")

    def room(self, cpus: float, gpus: float) -> int:
        """How many workers that take so much fit beside what others run now; at least 1."""
        free: dict[str, float] = _ray().available_resources()
        fits = [
            int(free.get(kind, 0.0) / each + 1e-9)
            for kind, each in (("CPU", cpus), ("GPU", gpus))
            if each > 0
        ]
        return max(1, min(fits, default=self.cores))

    def most_cores(self) -> int:
        """Cores of the largest machine."""
        nodes = [node["Resources"].get("CPU", 0) for node in _ray().nodes() if node["Alive"]]
        return max(1, int(max(nodes, default=1)))

    def _total(self, kind: str) -> float:
        return float(_ray().cluster_resources().get(kind, 0.0))


_VARIABLES = (
    "RAY_USAGE_STATS_ENABLED",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
)


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            f"the ray executor needs Ray: pip install 'atp-prune[ray]' ({error})"
        ) from None
    return ray


def _connected() -> bool:
    return bool(_ray().is_initialized())


def _connect(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    ray = _ray()
    try:
        if port.isdecimal():
            # Ray itself tries for minutes.
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
        with _as_loopback(host in ("localhost", _LOOPBACK, "::1")):
            _init(address=address)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UsageError(
            f"no Ray cluster answers at {address}: {_first(error)}; give its address with "
            "--ray-address (and its token, if it has one, as RAY_AUTH_TOKEN), or leave that and "
            "RAY_ADDRESS out to use this machine"
        ) from error


def _start() -> None:
    """A cluster whose processes listen on the loopback address only."""
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", _TOKEN)
    ray = _ray()
    try:
        with _as_loopback(True):
            _init(
                address="local",
                include_dashboard=False,
                _node_ip_address=_LOOPBACK,
                object_store_memory=_STORE_BYTES,
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise AtpError(
            f"Ray cannot be started on this machine: {_first(error)}; start a cluster yourself "
            "(ray start --head) and give --ray-address, or leave --executor ray out"
        ) from error
    if (found := ray.util.get_node_ip_address()) != _LOOPBACK:
        ray.shutdown()
        raise AtpError(
            f"this version of Ray ({ray.__version__}) listens on {found}, where other machines "
            "can reach it; install another one, or start a cluster yourself and give --ray-address"
        )


@contextlib.contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Keep stdout for data: Ray prints there when a worker dies, whatever it is told to log."""
    worker = _ray()._private.worker
    original = worker.print_to_stdstream

    def printed(data: Mapping[str, Any], *arguments: Any, **settings: Any) -> None:
        original({**data, "is_err": True}, *arguments, **settings)

    worker.print_to_stdstream = printed
    try:
        yield
    finally:
        worker.print_to_stdstream = original


@contextlib.contextmanager
def _as_loopback(wanted: bool) -> Iterator[None]:
    """Have Ray take the loopback address as it is, if that is wanted.

    Ray replaces it by the address that other machines see, except where it runs without
    clusters. A setting decides that: read on import here, and by the processes that Ray starts.
    """
    if not wanted:
        yield
        return
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    constants = _ray()._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _init(**settings: Any) -> None:
    _ray().init(**settings, log_to_driver=False, logging_level=logging.ERROR)


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
