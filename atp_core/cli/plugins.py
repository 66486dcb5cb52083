"""``atp plugins``: what is installed, and what is wrong with it."""

from __future__ import annotations

import rich_click as click

from ._console import emit_json, stdout
from ._plugins_check import command as _check
from ._plugins_new import command as _new

__all__ = ["command"]


@click.group("plugins", short_help="Show, check and write plugins.")
def command() -> None:
    """Show, check and write plugins."""


@command.command("list", short_help="List plugins.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list on stdout.")
def _list(as_json: bool) -> None:
    """List every plugin with its distribution, version, state and hooks.

    ATP_DISABLE_PLUGINS=name,name leaves plugins out; ATP_STRICT_PLUGINS=1 makes a broken one an
    error.
    """
    from rich.markup import escape
    from rich.table import Table

    from .._plugins import build_manager

    statuses = build_manager().probed()
    if as_json:
        emit_json([status.to_dict() for status in statuses])
        return
    table = Table("name", "distribution", "version", "status", "hooks")
    colours = {"ok": "green", "broken": "bold red", "disabled": "dim"}
    for status in statuses:
        hooks = ", ".join(hook.removeprefix("atp_") for hook in status.hooks)
        table.add_row(
            escape(status.name),
            escape(status.distribution),
            escape(status.version),
            f"[{colours[status.status]}]{status.status}[/]",
            hooks if status.error is None else escape(status.error),
        )
    stdout().print(table)


command.add_command(_check)
command.add_command(_new)
