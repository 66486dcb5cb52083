"""Names that stand for several tasks of lm-eval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .errors import UsageError

__all__ = ["PRESETS", "preset_of", "task_names"]

PRESETS: Final[Mapping[str, tuple[str, ...]]] = {
    # The tasks of Table 2 of Huang et al., ICML 2025; metric acc.
    "zeroshot7": (
        "boolq",
        "piqa",
        "hellaswag",
        "winogrande",
        "arc_easy",
        "arc_challenge",
        "openbookqa",
    ),
}
"""Preset → tasks."""


def task_names(text: str) -> list[str]:
    """The tasks of ``--tasks``, presets spelt out, each once.

    Args:
        text: names of tasks, groups, tags or presets, separated by commas.

    Raises:
        UsageError: there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--tasks names no task; write zeroshot7, or names such as boolq,piqa")
    return list(dict.fromkeys(task for name in names for task in PRESETS.get(name, (name,))))


def preset_of(tasks: list[str]) -> str | None:
    """The preset whose tasks are among `tasks`, all of them; the longest, or None."""
    found = [name for name, parts in PRESETS.items() if set(parts) <= set(tasks)]
    return max(found, key=lambda name: len(PRESETS[name]), default=None)
