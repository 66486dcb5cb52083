"""atp-prune plugin with the command ``atp quantize``: bits per block from a schedule.

Only hooks live here; torch is imported when something is quantized. `atp_quant.api.quantize` is
the same from Python.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from atp_core.hookspecs import hookimpl

from ._command import command

__all__ = ["ATP_HOOK_API", "atp_commands"]

ATP_HOOK_API = 1
"""Lowest version of the hook API that this plugin works with."""


@hookimpl
def atp_commands() -> Sequence[click.Command]:
    """One command."""
    return [command]
