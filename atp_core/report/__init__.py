"""Results for people: tables in the terminal, and figures."""

from __future__ import annotations

from .figures import objective_figure, rates_figure
from .plan import print_plan
from .terminal import print_evaluation, print_inspection, print_result, print_search

__all__ = [
    "objective_figure",
    "print_evaluation",
    "print_inspection",
    "print_plan",
    "print_result",
    "print_search",
    "rates_figure",
]
