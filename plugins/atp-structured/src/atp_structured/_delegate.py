"""Everything but loading is what the plugin of the whole model does."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atp_core.records import LoadedModel

from ._layout import MODEL, RECORD, WEIGHTS
from ._load import underlying
from ._write import write_weights

__all__ = ["ask", "save"]


def ask(hook: str, loaded: LoadedModel, **arguments: Any) -> Any:
    """What the plugin of the whole model answers.

    Raises:
        PluginError: it does not have the hook.
    """
    plugins, plugin, _ = underlying(loaded)
    return plugins.caller(hook, plugin)(loaded=loaded, **arguments)


def save(loaded: LoadedModel, directory: Path) -> Sequence[Path]:
    """Write a smaller model as it was read, with the weights that it has now."""
    _, _, source = underlying(loaded)
    shutil.copytree(source / MODEL, directory / MODEL)
    shutil.copyfile(source / RECORD, directory / RECORD)
    write_weights(loaded.model, directory / WEIGHTS)
    return [directory / WEIGHTS]
