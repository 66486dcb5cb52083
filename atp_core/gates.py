"""Quality gates: ``--fail-if 'perplexity>30'``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import GateError, UnknownNameError, UsageError
from .records import Metric

__all__ = ["Gate", "check_gates", "parse_gate"]

_FORM = re.compile(r"\s*([\w./-]+?)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*")


@dataclass(frozen=True)
class Gate:
    """A condition on a metric under which a run counts as failed."""

    metric: str
    operator: str
    bound: float

    def missed(self, value: float) -> bool:
        """Whether `value` meets the condition for failing; NaN always does."""
        if math.isnan(value):
            return True
        return {
            "<": value < self.bound,
            "<=": value <= self.bound,
            ">": value > self.bound,
            ">=": value >= self.bound,
        }[self.operator]


def parse_gate(text: str) -> Gate:
    """A gate from its command line form.

    Raises:
        UsageError: the text is not METRIC, comparison, number.
    """
    match = _FORM.fullmatch(text)
    if match is not None:
        try:
            return Gate(match[1], match[2], float(match[3]))
        except ValueError:
            pass
    raise UsageError(f"--fail-if {text!r} is not of the form 'perplexity>30'")


def check_gates(gates: Sequence[Gate], metrics: Mapping[str, Metric]) -> None:
    """Check every gate.

    Raises:
        UsageError: nothing was measured.
        UnknownNameError: a gate names a metric that was not measured.
        GateError: a gate is missed; names all of them.
    """
    if gates and not metrics:
        raise UsageError("--fail-if has nothing to go by: give --report-data to measure on")
    missed = []
    for gate in gates:
        if gate.metric not in metrics:
            raise UnknownNameError("metric", gate.metric, metrics)
        value = metrics[gate.metric].value
        if gate.missed(value):
            missed.append(f"{gate.metric} is {value:.6g} ({gate.operator} {gate.bound:g})")
    if missed:
        raise GateError("quality gate missed: " + "; ".join(missed))
