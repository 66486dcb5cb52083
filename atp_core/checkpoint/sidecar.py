"""``atp.json``: what a pruned directory says about itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .._json import without_non_finite
from ..errors import ModelError
from .atomic import SIDECAR_NAME, atomic_write_text

__all__ = ["SIDECAR_VERSION", "Sidecar", "has_sidecar", "read_sidecar", "write_sidecar"]

SIDECAR_VERSION = 1
"""Raised when a reader of the old form would misread the new one."""


class Sidecar(BaseModel):
    """The content of ``atp.json``.

    Attributes:
        version: form of the file.
        recipe: every setting of the run.
        schedule: the rates asked for, as `Schedule.to_dict` gives them; None where none is known.
        provenance: versions, machine and seeds of the run.
        metrics: "dense", "uniform", "pruned" → metric name → the fields of `Metric`.
        trials: every judged β.
        report: what was done to each block.
    """

    # Keys a plugin or a later release adds are kept, so that reading and writing loses nothing.
    model_config = ConfigDict(extra="allow")

    version: int = SIDECAR_VERSION
    recipe: dict[str, Any] = Field(default_factory=dict)
    schedule: dict[str, Any] | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    trials: list[dict[str, Any]] = Field(default_factory=list)
    report: dict[str, Any] = Field(default_factory=dict)


def has_sidecar(directory: Path) -> bool:
    """Whether atp wrote `directory`."""
    return (directory / SIDECAR_NAME).is_file()


def write_sidecar(directory: Path, sidecar: Sidecar) -> Path:
    """Write ``atp.json`` to `directory`, all of it or nothing.

    JSON has no NaN and no infinity; they are written as the strings "NaN", "Infinity" and
    "-Infinity", which `float` reads back.

    Returns:
        The file written.

    Raises:
        UsageError: the file cannot be written.
        DataError: the disk is full.
    """
    path = directory / SIDECAR_NAME
    data = without_non_finite(sidecar.model_dump(mode="python"))
    atomic_write_text(path, json.dumps(data, indent=2, allow_nan=False, default=str) + "\n")
    return path


def read_sidecar(directory: Path) -> Sidecar:
    """Read ``atp.json`` of `directory`.

    Raises:
        ModelError: there is none, it is damaged, or a newer atp wrote it.
    """
    path = directory / SIDECAR_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{directory} has no {SIDECAR_NAME}: atp did not write it; name a directory that "
            "`atp prune` wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(_damaged(path, str(error))) from None
    version = data.get("version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SIDECAR_VERSION:
        raise ModelError(
            f"{path} has version {version}, and this atp reads up to version {SIDECAR_VERSION}; "
            "upgrade atp-prune"
        )
    if not isinstance(version, int) or version < 1:
        raise ModelError(_damaged(path, "it has no version"))
    try:
        return Sidecar.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(_damaged(path, f"{where}: {first['msg']}")) from None


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged ({why}); prune again, or restore the file from where it came from"
