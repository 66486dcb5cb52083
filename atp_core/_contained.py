"""Calling a hook so that what goes wrong in it is told as the plugin's fault."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ._aside import aside
from ._contract import MODEL_HOOKS
from ._discovery import CORE, PluginStatus, one_line
from .errors import AtpError, PluginError

__all__ = ["contained", "remedy"]


@contextmanager
def contained(
    status: PluginStatus, hook: str, *, passing: bool = True, using: str = ""
) -> Iterator[None]:
    """Run a hook of a plugin; what it prints goes to stderr.

    Errors that are the machine's and not the plugin's pass: memory or disk is full, the reader of
    a pipe has gone, the user interrupts.

    Args:
        status: the plugin.
        hook: the hook.
        passing: errors raised on purpose (`AtpError`) pass too.
        using: what else may be to blame, for the message.

    Raises:
        PluginError: the hook raised anything else; names plugin, distribution, version and hook.
    """
    try:
        with aside():
            yield
    except (Exception, SystemExit) as error:
        # Core itself never exits; somebody's handler of a signal did.
        exits = isinstance(error, SystemExit) and status.name == CORE
        if exits or _is_machines(error) or (passing and isinstance(error, AtpError)):
            raise
        raise PluginError(
            f"{status} failed in {hook}{using}: {one_line(error)}; {remedy(status, hook)}"
        ) from error


def _is_machines(error: BaseException) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    # torch has an error of its own; it is told by name, so that torch need not be imported.
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return full or memory or isinstance(error, BrokenPipeError)


def remedy(status: PluginStatus, hook: str) -> str:
    """What a user can do about a fault in a hook."""
    report = "report it to the plugin's authors, with what ATP_TRACEBACK=1 shows"
    if status.name == CORE:
        return report
    if hook in MODEL_HOOKS or hook == "atp_prune":
        return f"{report}, or let another plugin handle the source (--plugin NAME)"
    return f"{report}, or leave the plugin out (ATP_DISABLE_PLUGINS={status.name})"
