"""The journal of a run: everything costly is written down as it ends, so that a run can resume.

One JSON object a line, flushed to disk at once. The first line identifies the run; a resumed run
must be the same one, because mixing trials of different runs would give a schedule that neither
would have found.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import AtpError, UsageError

__all__ = ["Journal", "journal_beside"]

_VERSION = 1


class Journal:
    """Results of a run by key.

    Args:
        path: the file; None keeps the journal in memory.
        identity: what must be equal for two runs to be the same, JSON-ready.
        resume: take up what is in the file.
        overwrite: start over even where the file holds results.

    Raises:
        UsageError: the file holds results and neither `resume` nor `overwrite` is set, or it
            holds those of another run.
    """

    def __init__(
        self,
        path: Path | None,
        identity: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self._path = path
        self._results: dict[str, dict[str, Any]] = {}
        identity = json.loads(json.dumps(identity))
        if path is None:
            return
        if resume and path.exists():
            self._read(identity)
            return
        if path.exists() and not overwrite and _holds_results(path):
            raise UsageError(
                f"{path.parent} holds the results of an interrupted run; add --resume to "
                "continue it, or --overwrite to start over"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._append({"version": _VERSION, "identity": identity})

    def get(self, key: str) -> dict[str, Any] | None:
        """The result written under `key`, or None."""
        return self._results.get(key)

    def has(self, prefix: str) -> bool:
        """Whether any key begins with `prefix`."""
        return any(key.startswith(prefix) for key in self._results)

    def entries(self) -> dict[str, dict[str, Any]]:
        """All results by key."""
        return dict(self._results)

    def put(self, key: str, result: Mapping[str, Any]) -> None:
        """Write a result down; it is on disk when this returns."""
        self._results[key] = dict(result)
        if self._path is not None:
            self._append({"key": key, "result": dict(result)})

    def within(self, prefix: str) -> Journal:
        """The part of this journal whose keys begin with `prefix`, without it."""
        return _Part(self, prefix)

    def __len__(self) -> int:
        return len(self._results)

    def _append(self, entry: Mapping[str, Any]) -> None:
        assert self._path is not None
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, identity: Mapping[str, Any]) -> None:
        assert self._path is not None
        entries, good = _entries(self._path)
        if not entries or entries[0].get("version") != _VERSION:
            raise UsageError(
                f"{self._path} is not a journal this version can resume; add --overwrite to "
                "start over"
            )
        known = entries[0]["identity"]
        differing = sorted(
            key for key in known.keys() | identity.keys() if known.get(key) != identity.get(key)
        )
        if differing:
            told = ", ".join(
                f"{key} was {known.get(key)!r} and is {identity.get(key)!r}" for key in differing
            )
            raise UsageError(
                f"cannot resume from {self._path}: {told}. Repeat the first command, or add "
                "--overwrite to start over."
            )
        # A kill while writing leaves half a line; what follows must start on a line of its own.
        os.truncate(self._path, good)
        for entry in entries[1:]:
            self._results[entry["key"]] = entry["result"]


class _Part(Journal):
    """Results of one of several runs that share a journal."""

    def __init__(self, whole: Journal, prefix: str) -> None:
        super().__init__(None, {})
        self._whole, self._prefix = whole, prefix

    def get(self, key: str) -> dict[str, Any] | None:
        """The result written under `key`, or None."""
        return self._whole.get(self._prefix + key)

    def has(self, prefix: str) -> bool:
        """Whether any key of this part begins with `prefix`."""
        return self._whole.has(self._prefix + prefix)

    def entries(self) -> dict[str, dict[str, Any]]:
        """All results of this part by key."""
        start = len(self._prefix)
        return {
            key[start:]: result
            for key, result in self._whole.entries().items()
            if key.startswith(self._prefix)
        }

    def put(self, key: str, result: Mapping[str, Any]) -> None:
        """Write a result down; it is on disk when this returns."""
        self._whole.put(self._prefix + key, result)


@contextlib.contextmanager
def journal_beside(
    output: Path | None,
    name: str,
    identity: Callable[[], Mapping[str, Any]],
    *,
    worth: str = "",
    resume: bool = False,
    overwrite: bool = False,
) -> Iterator[Journal]:
    """The journal of what is writing `output`, beside it; in memory where nothing is written.

    It goes when all is done, and also when the run fails on what it was given before any result
    worth resuming for: then there is nothing to resume. Journals of other runs are left alone.

    Args:
        output: the directory to be written, or None.
        name: of the journal's file.
        identity: gives that of `Journal`; not asked for what is refused anyway.
        worth: what the key of a result begins with for which a run is resumed.
        resume: as in `Journal`.
        overwrite: as in `Journal`.

    Raises:
        UsageError: `resume` without `output`, or as `Journal` raises it.
    """
    if output is None:
        if resume:
            raise UsageError("--resume needs the output directory of the interrupted run (-o)")
        yield Journal(None, identity())
        return
    path = output.parent / f".{output.name}.atp-work" / name
    journal = Journal(path, identity(), resume=resume, overwrite=overwrite)
    try:
        yield journal
    except AtpError:
        if not journal.has(worth):
            _remove(path)
        raise
    _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another journal is in its folder
        path.parent.rmdir()


def _entries(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The complete entries of a journal, and how many bytes they take."""
    entries: list[dict[str, Any]] = []
    good = 0
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or not isinstance(entry, dict):
                break
            entries.append(entry)
            good += len(line)
    return entries, good


def _holds_results(path: Path) -> bool:
    return len(_entries(path)[0]) > 1
