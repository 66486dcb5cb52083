"""Prune transformers with arithmetic-progression layer-wise sparsity."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
