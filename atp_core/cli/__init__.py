"""The command line. Importing it, and showing its help, imports neither torch nor a plugin."""

from __future__ import annotations

from ._main import main

__all__ = ["main"]
