"""Keeping transformers from writing beside core's progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import transformers

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own notes and warnings; what fails still raises."""
    log: Any = transformers.logging
    level = log.get_verbosity()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(level)
