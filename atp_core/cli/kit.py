"""What a plugin's command shares with core's: options, output and progress; imports no torch."""

from __future__ import annotations

from ._console import emit_json, stdout
from ._options import (
    BetaParam,
    SettingsParam,
    SparsityParam,
    data_options,
    json_option,
    label_options,
    load_options,
    names_of,
    overwrite_option,
)
from ._progress import bars

__all__ = [
    "BetaParam",
    "SettingsParam",
    "SparsityParam",
    "bars",
    "data_options",
    "emit_json",
    "json_option",
    "label_options",
    "load_options",
    "names_of",
    "overwrite_option",
    "stdout",
]
