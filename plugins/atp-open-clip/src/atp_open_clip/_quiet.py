"""Keeping open_clip and transformers from writing lines of their own beside core's."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' progress bars, log lines and warnings about how weights are found."""
    import transformers

    log: Any = transformers.logging
    shown, level = log.is_progress_bar_enabled(), log.get_verbosity()
    disabled = logging.root.manager.disable
    log.disable_progress_bar()
    log.set_verbosity_error()
    # open_clip logs to the root logger, which sets it up for printing unless it has a handler.
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.removeHandler(handler)
        log.set_verbosity(level)
        if shown:
            log.enable_progress_bar()
