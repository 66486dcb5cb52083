"""``atp``: the group of commands, and how each way of failing ends."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import rich_click as click
from click.exceptions import Exit

from .. import __version__
from .._commands import COMMANDS
from .._importing import end_process
from ..errors import AtpError, PluginError, UnknownNameError

__all__ = ["group", "main"]


class _Group(click.RichGroup):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Core's commands in the order of the table, then plugins' by name."""
        return [*COMMANDS, *sorted(_plugin_commands(ctx))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name."""
        if cmd_name in COMMANDS:
            if ctx.meta.get("atp.help"):
                return click.Command(cmd_name, help=COMMANDS[cmd_name])
            module = importlib.import_module(f".{cmd_name}", __package__)
            return module.command  # type: ignore[no-any-return]
        return _plugin_commands(ctx).get(cmd_name)

    def get_help(self, ctx: click.Context) -> str:
        """The group's help, for which the first line of each command is enough."""
        ctx.meta["atp.help"] = True
        return super().get_help(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command to run, or an error with the nearest name."""
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            raise UnknownNameError("command", args[0], known)
        return super().resolve_command(ctx, args)


def _plugin_commands(ctx: click.Context) -> dict[str, click.Command]:
    """What plugins add; a command that clashes with another is told and left out."""
    found: dict[str, click.Command] | None = ctx.meta.get("atp.commands")
    if found is not None:
        return found
    from .._plugins import build_manager

    found = {}
    origins = dict.fromkeys(COMMANDS, "atp-prune")
    try:
        for status, command in build_manager().commands():
            name = str(command.name)
            if name in origins:
                click.echo(
                    f"warning: {origins[name]} and {status.distribution} both offer the command "
                    f"{name!r}; the one of {origins[name]} is used. Set ATP_DISABLE_PLUGINS="
                    f"{status.name} to be rid of the other.",
                    err=True,
                )
                continue
            origins[name] = status.distribution
            found[name] = command
    except PluginError as error:
        # Help must always show.
        click.echo(f"warning: {error}", err=True)
    ctx.meta["atp.commands"] = found
    return found


@click.group(
    "atp",
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="atp")
def group() -> None:
    """Cut 50-80 % of a transformer's weights with layer-wise sparsity that keeps it working."""


def main(args: Sequence[str] | None = None) -> int:
    """Run ``atp`` and return its exit code.

    0 done, 1 unexpected, 2 usage, 3 plugin problem, 4 model or data problem, 5 quality gate
    missed, 130 interrupted.

    Args:
        args: the words after ``atp``; None takes the process's own.
    """
    code = _run(args)
    if args is None:
        end_process(code)
    return code


def _run(args: Sequence[str] | None) -> int:
    try:
        code = group.main(
            None if args is None else list(args), prog_name="atp", standalone_mode=False
        )
        return code if isinstance(code, int) else 0
    except Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; add --resume to go on where a run with -o stopped", 130)
    except AtpError as error:
        return _fail(str(error), error.exit_code, error)
    except BrokenPipeError:
        # The reader went away; Python would complain about it again when it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" at {error.filename}" if error.filename else ""
            return _fail(f"the disk is full{where}; free some space and try again", 1, error)
        return _unexpected(error)
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    hint = "" if _tracebacks() else " (set ATP_TRACEBACK=1 for the traceback)"
    return _fail(f"unexpected {type(error).__name__}: {error}{hint}", 1, error)


def _fail(message: str, code: int, error: Any = None) -> int:
    if error is not None and _tracebacks():
        traceback.print_exception(error)
    print(f"error: {message}", file=sys.stderr)
    return code


def _tracebacks() -> bool:
    return os.environ.get("ATP_TRACEBACK", "") not in ("", "0")
