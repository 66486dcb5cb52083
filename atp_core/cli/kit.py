"""What a plugin's command shares with core's: options, output and progress; imports no torch."""

from __future__ import annotations

from ._console import emit_json, stdout
from ._options import data_options, load_options
from ._progress import bars

__all__ = ["bars", "data_options", "emit_json", "load_options", "stdout"]
