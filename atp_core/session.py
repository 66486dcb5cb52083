"""One model on its way through the hooks, for plugins that add a command of their own."""

from __future__ import annotations

from ._session import Session
from ._workflow import Pruning

__all__ = ["Pruning", "Session"]
