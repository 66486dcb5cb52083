"""The folder where compiled kernels and measured choices are kept between runs."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["folder", "write"]


def folder() -> Path:
    """The folder ``sparse-cpu`` of atp-prune's cache.

    That is ``$ATP_CACHE``, else ``$XDG_CACHE_HOME/atp-prune`` or ``~/.cache/atp-prune``.

    Raises:
        OSError: it cannot be made, or belongs to another user, whose code we must not load.
    """
    if asked := os.environ.get("ATP_CACHE"):
        root = Path(asked).expanduser()
    else:
        home = os.environ.get("XDG_CACHE_HOME")
        root = (Path(home) if home else Path.home() / ".cache") / "atp-prune"
    here = root / "sparse-cpu"
    here.mkdir(parents=True, exist_ok=True, mode=0o700)
    if here.stat().st_uid != os.getuid():
        raise PermissionError(f"{here} belongs to another user")
    return here


def write(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or all of the new.

    Raises:
        OSError: it cannot be written.
    """
    work = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        work.write_bytes(content)
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)
