"""A schedule read from a file."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import UsageError
from ..records import Schedule

__all__ = ["from_file"]


def from_file(path: str | Path) -> Schedule:
    """The schedule in a ``schedule.json``, or in the ``atp.json`` of an output directory.

    Raises:
        UsageError: the file cannot be read, or holds no schedule.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the schedule {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if isinstance(data, dict) and "schedule" in data:
        data = data["schedule"]
    try:
        return Schedule.from_dict(data)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
