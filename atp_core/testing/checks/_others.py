"""Checks of objectives and subcommands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._check import checker, require
from ._offered import OfferSubject, built

__all__ = ["COMMAND_CHECKS", "OBJECTIVE_CHECKS"]

OBJECTIVE_CHECKS: list[tuple[str, Callable[[OfferSubject], None]]] = []
COMMAND_CHECKS: list[tuple[str, Callable[[Any], None]]] = []
_objective = checker(OBJECTIVE_CHECKS)
_command = checker(COMMAND_CHECKS)


@_objective("is built, has the name it is offered under, and can prepare and measure")
def _built(subject: OfferSubject) -> None:
    objective = built(subject)
    for method in ("prepare", "measure"):
        require(callable(getattr(objective, method, None)), f"it has no method {method!r}")


@_command("is a command of click with help, under a name that is free")
def _free(command: Any) -> None:
    import click

    from ..._commands import COMMANDS

    require(
        isinstance(command, click.Command),
        f"atp_commands gave {type(command).__name__}, not a click.Command",
    )
    require(command.name not in COMMANDS, f"atp has a command {command.name!r} of its own")
    require(bool(command.help or command.short_help), "it has no help; give it a docstring")
