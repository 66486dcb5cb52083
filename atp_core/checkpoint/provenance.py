"""Where a result came from: versions, machine, seeds. Does not import torch."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["collect_provenance"]

_CORE = "atp-prune"


def collect_provenance(*, seed: int, plugin_distribution: str | None = None) -> dict[str, Any]:
    """What a reader needs to repeat a run, JSON-ready.

    Nothing in it names the machine or its user: results are made to be published.

    Args:
        seed: the seed of the run.
        plugin_distribution: distribution of the plugin that handled the model.
    """
    return {
        "versions": _versions(plugin_distribution),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        **_torch_state(),
        "plugin_distribution": plugin_distribution,
        "seed": seed,
    }


def _versions(plugin: str | None) -> dict[str, str]:
    """Versions of core, of the plugin, and of all they require directly."""
    names = {_CORE}
    for distribution in filter(None, (_CORE, plugin)):
        names.update({canonicalize_name(distribution), *_required(distribution)})
    found = {}
    for name in sorted(names):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _required(distribution: str) -> Iterator[str]:
    try:
        lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


def _torch_state() -> dict[str, Any]:
    """Threads and accelerators, where the run has used torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    return {
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in devices],
    }
