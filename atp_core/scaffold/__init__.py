"""``atp plugins new``: a complete plugin to start from, of any kind."""

from __future__ import annotations

from ._kinds import KINDS, Kind
from ._names import Names, names_for
from ._new import Scaffold, new_plugin
from ._render import render

__all__ = ["KINDS", "Kind", "Names", "Scaffold", "names_for", "new_plugin", "render"]
