"""The subcommands of `atp` that core offers."""

from __future__ import annotations

__all__ = ["COMMANDS"]

# The help of the group is made from this table, so that it imports no command.
COMMANDS = {
    "prune": "Prune a model and write it.",
    "search": "Find the schedule only.",
    "eval": "Measure a model.",
    "compare": "Compare allocations on one model.",
    "diagnose": "Show how errors grow over depth.",
    "export": "Pack the weights of a pruned model.",
    "bench": "Time a pruned model dense against sparse.",
    "report": "Make one page about pruned models.",
    "inspect": "Show chains, blocks and zeros.",
    "plugins": "Show, check and write plugins.",
    "demo": "Prune a model with ATP and compare with uniform.",
}
"""Name → first line of its help, in the order of listing."""
