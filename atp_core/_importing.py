"""Importing plugins with a limit on time, so that one that hangs does not stop the others."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from ._aside import aside

__all__ = ["StillImporting", "end_process", "import_in_time"]


class StillImporting(Exception):
    """The import did not end in time.

    Args:
        seconds: how long it was waited for.
        others: names of further imports that had not ended when it began. It may be waiting for
            a lock that one of them holds.
    """

    def __init__(self, seconds: float, others: list[str]) -> None:
        behind = f", perhaps waiting for {' and '.join(others)}, still importing too"
        super().__init__(f"still importing after {seconds:g} s{behind if others else ''}")


class _Import(threading.Thread):
    """An import; a daemon, so that the process can end without it."""

    def __init__(self, name: str, load: Callable[[], Any], others: list[str]) -> None:
        super().__init__(name=f"import of {name}", daemon=True)
        self._load = load
        self.others = others
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Import, and keep what comes of it for whoever waits."""
        try:
            with aside():
                self.result = self._load()
        except BaseException as error:
            self.error = error


_unfinished: dict[str, _Import] = {}
"""Imports that nobody waits for any more, by name. None is waited for twice, nor begun twice."""


def import_in_time(name: str, load: Callable[[], Any], seconds: float) -> Any:
    """What `load` returns, if it returns in time.

    Args:
        name: tells one import from another, however often it is asked for.
        load: imports; runs in a thread of its own.
        seconds: how long to wait.

    Raises:
        StillImporting: it is not done; whatever it does later is dropped.
        BaseException: whatever `load` raises.
    """
    running = _unfinished.pop(name, None)
    if running is None:
        others = [other for other, one in _unfinished.items() if one.is_alive()]
        running = _Import(name, load, others)
        try:
            running.start()
            running.join(min(seconds, threading.TIMEOUT_MAX))
        except KeyboardInterrupt:
            _unfinished[name] = running
            raise
    if running.is_alive():
        _unfinished[name] = running
        raise StillImporting(seconds, running.others)
    if running.error is not None:
        raise running.error
    return running.result


def end_process(code: int) -> None:
    """End the process at once if an import is still running; otherwise do nothing.

    An ordinary exit takes the interpreter down under the import's thread, and the process aborts
    where that thread is in C++ (torch, say).

    Args:
        code: the exit code.
    """
    if not any(one.is_alive() for one in _unfinished.values()):
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
