"""What plugins print: it goes to stderr, so that stdout holds data and nothing else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["aside"]


class _Depth(threading.local):
    """How many calls of `aside` the running thread is in."""

    value = 0


class _Stdout:
    """stdout for every thread, but stderr for those that are in `aside`."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr if _depth.value else self.stream, name)


_depth = _Depth()
_lock = threading.Lock()
_users = 0


@contextmanager
def aside() -> Iterator[None]:
    """Send what this thread prints to stderr; other threads go on printing to stdout.

    A thread that never comes out of it goes on printing to stderr.
    """
    global _users
    with _lock:
        if sys.stdout is not None and not isinstance(sys.stdout, _Stdout):
            sys.stdout = _Stdout(sys.stdout)
        _users += 1
    _depth.value += 1
    try:
        yield
    finally:
        _depth.value -= 1
        with _lock:
            _users -= 1
            # Unless somebody has put another stream there meanwhile.
            if not _users and isinstance(sys.stdout, _Stdout):
                sys.stdout = sys.stdout.stream
