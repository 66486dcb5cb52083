"""Keeping transformers from drawing bars of its own beside core's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import transformers

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own progress bars and warnings."""
    log: Any = transformers.logging
    shown, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if shown:
            log.enable_progress_bar()
