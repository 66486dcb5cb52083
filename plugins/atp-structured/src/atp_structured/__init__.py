"""atp-prune plugin that removes heads and channels, so that a model gets smaller and faster.

`slim` makes a smaller model and writes it, `load` reads it. Torch is imported when they are first
called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atp_core.hookspecs import hookimpl
from atp_core.records import (
    Calibration,
    Chain,
    DataRequest,
    Evaluation,
    LoadedModel,
    LoadRequest,
    Recognition,
    Source,
    Split,
    Workload,
    WorkRequest,
)

if TYPE_CHECKING:
    import click
    from lm_eval.api.model import LM

    from ._load import load
    from ._result import SlimBlock, SlimGroup, SlimResult
    from ._slim import slim

__all__ = [
    "ATP_HOOK_API",
    "SlimBlock",
    "SlimGroup",
    "SlimResult",
    "atp_calibrate",
    "atp_commands",
    "atp_evaluate",
    "atp_lm",
    "atp_load",
    "atp_locate",
    "atp_recognize",
    "atp_save",
    "atp_workloads",
    "load",
    "slim",
]

ATP_HOOK_API = 1
"""Lowest version of the hook API that this plugin works with."""

_LAZY = {
    "SlimBlock": "_result",
    "SlimGroup": "_result",
    "SlimResult": "_result",
    "load": "_load",
    "slim": "_slim",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)


@hookimpl
def atp_commands() -> Sequence[click.Command]:
    """``atp slim``."""
    from ._command import command

    return [command]


# --- what `slim` wrote is a model like any other --------------------------------------------------


@hookimpl
def atp_recognize(source: Source) -> Recognition | None:
    """Directories that `slim` wrote."""
    from ._layout import RECORD

    path = source.path
    if path is None or not (path / RECORD).is_file():
        return None
    return Recognition(1.0, f"it has a {RECORD}")


@hookimpl
def atp_load(source: Source, request: LoadRequest) -> LoadedModel:
    """Build the whole model through its own plugin, narrow it and fill it."""
    from ._load import load_slim

    return load_slim(source, request)


@hookimpl
def atp_locate(loaded: LoadedModel) -> Sequence[Chain]:
    """As the plugin of the whole model does."""
    from ._delegate import ask

    return ask("atp_locate", loaded)  # type: ignore[no-any-return]


@hookimpl
def atp_calibrate(loaded: LoadedModel, data: DataRequest) -> Calibration:
    """As the plugin of the whole model does."""
    from ._delegate import ask

    return ask("atp_calibrate", loaded, data=data)  # type: ignore[no-any-return]


@hookimpl
def atp_evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None
) -> Evaluation:
    """As the plugin of the whole model does."""
    from ._delegate import ask

    return ask(  # type: ignore[no-any-return]
        "atp_evaluate", loaded, data=data, split=split, metrics=metrics
    )


@hookimpl
def atp_lm(loaded: LoadedModel, batch_size: int) -> LM:
    """As the plugin of the whole model does."""
    from ._delegate import ask

    return ask("atp_lm", loaded, batch_size=batch_size)


@hookimpl
def atp_workloads(loaded: LoadedModel, request: WorkRequest) -> Sequence[Workload]:
    """As the plugin of the whole model does."""
    from ._delegate import ask

    return ask("atp_workloads", loaded, request=request)  # type: ignore[no-any-return]


@hookimpl
def atp_save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write the layout of `slim`."""
    from ._delegate import save

    return save(loaded, directory)
