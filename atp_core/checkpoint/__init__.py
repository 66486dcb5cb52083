"""What stands in an output directory beside the model, and how it gets there whole."""

from __future__ import annotations

from .atomic import SIDECAR_NAME, atomic_directory, atomic_write_text, check_target
from .card import model_card
from .provenance import collect_provenance
from .sidecar import SIDECAR_VERSION, Sidecar, has_sidecar, read_sidecar, write_sidecar

__all__ = [
    "SIDECAR_NAME",
    "SIDECAR_VERSION",
    "Sidecar",
    "atomic_directory",
    "atomic_write_text",
    "check_target",
    "collect_provenance",
    "has_sidecar",
    "model_card",
    "read_sidecar",
    "write_sidecar",
]
