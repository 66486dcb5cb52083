"""For authors of plugins: a suite that proves a plugin right, and fixtures that keep it alone.

A plugin's test file subscribes in three lines::

    from atp_core.testing import Conformance

    class TestConformance(Conformance):
        plugin = "mine"  # the entry point's name

The suite asks the plugin for tiny models through `atp_examples` and walks each from its source to
a saved directory and back, and it looks at whatever else the plugin offers: methods, allocations,
executors, objectives, commands. `atp plugins check mine` runs the same checks on the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._example import Example
from ._images import image_folder

if TYPE_CHECKING:
    from ._pytest import Conformance

__all__ = ["Conformance", "Example", "image_folder"]


def __getattr__(name: str) -> Any:
    # pytest is there where tests run, and need not be anywhere else.
    if name == "Conformance":
        from ._pytest import Conformance

        return Conformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
