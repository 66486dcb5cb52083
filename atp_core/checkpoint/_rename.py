"""Putting one directory in the place of another."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import sys
from pathlib import Path

__all__ = ["replace_directory"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def replace_directory(new: Path, target: Path) -> None:
    """Rename `new` to `target`; what stood at the target is removed afterwards.

    Args:
        new: a directory on the same file system as the target.
        target: a directory, or nothing.

    Raises:
        OSError: the rename failed; the target is as it was.
    """
    if not target.exists():
        new.rename(target)
        return
    if _exchange(new, target):
        shutil.rmtree(new, ignore_errors=True)
        return
    # Without an exchanging rename there is an instant at which the target does not exist.
    old = target.parent / f".{target.name}.atp-old-{secrets.token_hex(4)}"
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        with contextlib.suppress(FileExistsError):
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories in one step, where the system can."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # a libc older than the call
        return False
    done = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(done == 0)
