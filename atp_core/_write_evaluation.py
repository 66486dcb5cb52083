"""Writing what was measured into a directory, beside whatever else we wrote there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from ._json import without_non_finite
from .checkpoint import SIDECAR_NAME, atomic_write_text
from .errors import UsageError
from .evaluation.schema import EVALUATION_NAME
from .results import EvaluateResult

__all__ = ["OBSERVATIONS_NAME", "check_evaluation_target", "write_evaluation"]

OBSERVATIONS_NAME: Final = "observations.json"


def check_evaluation_target(output: Path, *, overwrite: bool) -> None:
    """Refuse a directory that must not be written to, before costly work begins.

    A measurement may go into the directory of a model that we pruned: nothing of it is replaced
    but an earlier measurement.

    Raises:
        UsageError: it is a file, belongs to something else, or holds a measurement already.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; give the name of a directory to write")
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent}; make it first")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if (output / EVALUATION_NAME).exists():
        if not overwrite:
            raise UsageError(
                f"{output} holds an earlier {EVALUATION_NAME}; add --overwrite (overwrite=True in "
                "Python) to replace it, or choose another directory"
            )
    elif not (output / SIDECAR_NAME).is_file():
        raise UsageError(
            f"{output} exists and atp did not write it (it has no {SIDECAR_NAME}); choose another "
            "directory"
        )


def write_evaluation(result: EvaluateResult, output: Path) -> None:
    """Write ``eval.json``, and the figure of each document or image to ``observations.json``."""
    output.mkdir(exist_ok=True)
    observations = {
        name: [asdict(part) for part in parts] for name, parts in result.observations.items()
    }
    text = json.dumps(without_non_finite(observations), allow_nan=False)
    atomic_write_text(output / OBSERVATIONS_NAME, text + "\n")
    record = result.record(portable=True)
    atomic_write_text(output / EVALUATION_NAME, record.model_dump_json(indent=2) + "\n")
