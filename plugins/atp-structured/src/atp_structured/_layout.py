"""Names of what a directory holds."""

from __future__ import annotations

from typing import Final

__all__ = ["MODEL", "RECORD", "VERSION", "WEIGHTS"]

RECORD: Final = "slim.json"
WEIGHTS: Final = "slim.safetensors"
MODEL: Final = "model"

VERSION: Final = 1
"""Form of ``slim.json``; raised when a reader of the old form would misread the new one."""
