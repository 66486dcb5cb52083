"""Keeping transformers from drawing bars of its own beside core's."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

import transformers

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own progress bars and warnings: core shows a bar of its own."""
    log: Any = transformers.logging
    shown, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    # The reader of GGUF files draws its bar with tqdm itself, which no setting reaches.
    reader: Any = None
    with contextlib.suppress(ImportError):
        reader = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = getattr(reader, "tqdm", None)
    if bar is not None:
        reader.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        if bar is not None:
            reader.tqdm = bar
        log.set_verbosity(level)
        if shown:
            log.enable_progress_bar()
