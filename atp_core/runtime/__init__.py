"""Ways to execute pruned models: what a runtime is, and what it says it did.

Nothing here imports torch before a model is accelerated.
"""

from __future__ import annotations

from ._accelerated import Accelerated
from ._protocol import Runtime
from ._records import AcceleratedLayer, Acceleration

__all__ = ["Accelerated", "AcceleratedLayer", "Acceleration", "Runtime"]
