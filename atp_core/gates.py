"""Quality gates: ``--fail-if 'perplexity>30'``, ``'top1:delta<-1'`` or ``worse``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .errors import GateError, UnknownNameError, UsageError
from .records import Metric

if TYPE_CHECKING:
    from .evaluation.comparison import Comparison

__all__ = ["Gate", "check_comparisons", "check_gates", "parse_gate", "parse_gates"]

_FORM = re.compile(r"\s*([\w./,-]+?(?::delta)?)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*")
_DELTA = ":delta"
_WORSE = "worse"


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


def parse_gates(texts: Sequence[str], *, compares: bool) -> tuple[list[Gate], list[Gate | None]]:
    """Gates of metrics, and gates of comparisons; None stands for ``worse``.

    Args:
        texts: the gates in their command line form.
        compares: whether there will be comparisons.

    Raises:
        UsageError: a text is no gate, or is one of a comparison and there will be none.
    """
    of_metrics: list[Gate] = []
    of_comparisons: list[Gate | None] = []
    for text in texts:
        if text.strip() == _WORSE:
            of_comparisons.append(None)
            continue
        gate = parse_gate(text)
        if gate.metric.endswith(_DELTA):
            of_comparisons.append(replace(gate, metric=gate.metric.removesuffix(_DELTA)))
        else:
            of_metrics.append(gate)
    if of_comparisons and not compares:
        raise UsageError(
            "--fail-if has nothing to compare with: `atp eval SOURCE --compare SOURCE` measures "
            f"differences, which 'worse' and 'METRIC{_DELTA}' are about"
        )
    return of_metrics, of_comparisons


def check_comparisons(gates: Sequence[Gate | None], comparisons: Sequence[Comparison]) -> None:
    """Check gates of comparisons: a difference past its bound, or a figure that is worse.

    Raises:
        UnknownNameError: a gate names a metric that was not compared.
        GateError: a gate is missed; names all of them.
    """
    missed = []
    for gate in gates:
        if gate is None:
            missed += [
                f"{one.metric} is {one.text}, compared with {one.reference}"
                for one in comparisons
                if one.verdict == _WORSE
            ]
            continue
        named = [one for one in comparisons if one.metric == gate.metric]
        if not named:
            raise UnknownNameError("metric", gate.metric, {one.metric for one in comparisons})
        missed += [
            f"{one.metric} differs by {one.difference:.6g} from {one.reference} "
            f"({gate.operator} {gate.bound:g})"
            for one in named
            if gate.missed(one.difference)
        ]
    if missed:
        raise GateError("quality gate missed: " + "; ".join(missed))


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
