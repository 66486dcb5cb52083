"""Measuring so that others can compare: tasks of lm-eval, a result schema, paired figures."""

from __future__ import annotations

from .presets import PRESETS, task_names

__all__ = ["PRESETS", "task_names"]
