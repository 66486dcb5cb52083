"""atp-prune plugin with the command ``atp tune``: recovery training that keeps every zero.

Only hooks and names live here. torch, transformers and PEFT are imported when training begins.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atp_core.hookspecs import hookimpl

if TYPE_CHECKING:
    import click

    from ._result import TuneResult
    from ._run import tune

__all__ = ["ATP_HOOK_API", "TuneResult", "atp_commands", "tune"]

ATP_HOOK_API = 1
"""Lowest version of the hook API that this plugin works with."""

_HOMES = {"TuneResult": "_result", "tune": "_run"}


@hookimpl
def atp_commands() -> Sequence[click.Command]:
    """``atp tune``."""
    from ._command import command

    return [command]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
