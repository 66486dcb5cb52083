"""Writing a directory, or a file, so that others see all of it or nothing.

A directory is written beside its target and renamed at the end. Whatever ends the writing early
(an error, a full disk, Ctrl-C) leaves what stood at the target before; what a killed process
leaves behind is swept by the next run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError, UsageError
from ._rename import replace_directory

__all__ = [
    "SIDECAR_NAME",
    "atomic_directory",
    "atomic_write_text",
    "check_target",
    "scratch_directory",
]

SIDECAR_NAME = "atp.json"
"""Marks a directory as written by atp, and so as one that may be replaced."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def check_target(target: Path, *, overwrite_ok: bool) -> None:
    """Refuse a target that must not be written to; for use before costly work begins.

    Args:
        target: the directory to be written.
        overwrite_ok: whether a directory that atp wrote may be replaced.

    Raises:
        UsageError: the target is a file, belongs to something else, or may not be replaced.
    """
    if not target.exists():
        _check_parent(target)
        return
    if not target.is_dir():
        raise UsageError(f"{target} is a file; give the name of a directory to write")
    if not any(target.iterdir()):
        return
    if not (target / SIDECAR_NAME).is_file():
        raise UsageError(
            f"{target} exists and atp did not write it (it has no {SIDECAR_NAME}), so it is left "
            "alone; choose another output directory, or remove this one yourself"
        )
    if not overwrite_ok:
        raise UsageError(
            f"{target} holds an earlier output; add --overwrite (overwrite=True in Python) to "
            "replace it, or choose another output directory"
        )


@contextlib.contextmanager
def atomic_directory(
    target: Path, *, overwrite_ok: bool, needed_bytes: int = 0
) -> Iterator[Path]:
    """Write a directory that appears at `target` complete or not at all.

    Args:
        target: the directory to be written; missing parents are made.
        overwrite_ok: whether a directory that atp wrote may be replaced.
        needed_bytes: estimate of what will be written, checked against the free space first.

    Yields:
        An empty directory beside the target, to write to.

    Raises:
        UsageError: the target must not, or cannot, be written.
        DataError: the disk has too little space, before or while writing.
    """
    # A link stays a link: what it points to is replaced.
    target = Path(os.path.realpath(target))
    check_target(target, overwrite_ok=overwrite_ok)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        _check_space(target.parent, needed_bytes)
        work = target.parent / f".{target.name}.atp-tmp-{secrets.token_hex(4)}"
        work.mkdir()
    except OSError as error:
        raise _explain(error, target) from error
    try:
        with _locked(work):
            yield work
            _sync(work)
            # Asked again: the writing may have taken hours.
            check_target(target, overwrite_ok=overwrite_ok)
            replace_directory(work, target)
            _sync_directory(target.parent)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if _is_no_space(error):
            raise _no_space(target) from error
        if isinstance(error, PermissionError):
            raise _explain(error, target) from error
        raise


@contextlib.contextmanager
def scratch_directory(target: Path | None, needed_bytes: int) -> Iterator[Path]:
    """An empty directory for what is needed on the way to `target`; gone at the end.

    Args:
        target: beside it, so that files can be renamed into it; None is where temporary files go.
        needed_bytes: estimate of what will be written, checked against the free space first.

    Raises:
        UsageError: the directory cannot be made.
        DataError: the disk has too little space.
    """
    beside = Path(tempfile.gettempdir(), "scratch") if target is None else target
    beside = Path(os.path.realpath(beside))
    parent, name = beside.parent, beside.name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(beside)
        _check_space(parent, needed_bytes)
        work = Path(tempfile.mkdtemp(prefix=f".{name}.atp-tmp-", dir=parent))
    except OSError as error:
        raise _explain(error, parent) from error
    try:
        with _locked(work):
            yield work
    except OSError as error:
        if _is_no_space(error):
            raise _no_space(beside) from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a file that changes from its old content to all of the new.

    Args:
        path: the file; its directory must exist.
        text: the new content.

    Raises:
        UsageError: the file cannot be written.
        DataError: the disk is full.
    """
    work = path.parent / f".{path.name}.atp-tmp-{secrets.token_hex(4)}"
    try:
        with work.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        work.replace(path)
    except OSError as error:
        _discard(work)
        raise _explain(error, path) from error
    except BaseException:
        _discard(work)
        raise


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _check_parent(target: Path) -> None:
    """Refuse a target whose nearest existing ancestor cannot take it."""
    ancestor = target.absolute().parent
    while not ancestor.exists() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise UsageError(f"cannot write {target}: {ancestor} is a file, not a directory")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise UsageError(
            f"cannot write {target}: no permission to write in {ancestor}; choose another output "
            "directory"
        )


def _check_space(parent: Path, needed: int) -> None:
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise DataError(
            f"not enough disk space in {parent}: {_gigabytes(needed)} needed, "
            f"{_gigabytes(free)} free; free some, or choose an output directory on another disk"
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**7 else f"{count / 1e6:.2f} MB"


def _is_no_space(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _NO_SPACE
    # Writers outside Python (safetensors) carry the system's message in an error of their own.
    return isinstance(error, Exception) and os.strerror(errno.ENOSPC) in str(error)


def _no_space(target: Path) -> DataError:
    return DataError(
        f"the disk filled up while writing {target}; nothing was changed there. Free some space, "
        "or choose an output directory on another disk"
    )


def _explain(error: OSError, target: Path) -> DataError | UsageError:
    if _is_no_space(error):
        return _no_space(target)
    return UsageError(
        f"cannot write {target}: {error.strerror or error}; choose another output directory, or "
        "change its permissions"
    )


# --- leftovers of killed processes -------------------------------------------------------------


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a lock that dies with the process, to tell work under way from leftovers."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: never swept
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _sweep(target: Path) -> None:
    """Remove what killed processes left of earlier attempts at `target`."""
    prefix = f".{target.name}.atp-tmp-"
    for leftover in target.parent.iterdir():
        if not leftover.name.startswith(prefix) or not leftover.is_dir():
            continue
        with contextlib.suppress(OSError):  # another run is at work there, or it is just gone
            descriptor = os.open(leftover, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(descriptor)


# --- reaching the disk -------------------------------------------------------------------------


def _sync(directory: Path) -> None:
    """Flush every file and directory under `directory`; a rename must not overtake the data."""
    for folder, _, files in os.walk(directory):
        for name in files:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        _sync_directory(Path(folder))


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot flush a directory
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
