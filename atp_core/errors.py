"""Everything atp raises on purpose, and the exit code each one ends a command with.

::

    AtpError                  1   unexpected unless a subclass says otherwise
    ├── UsageError            2   an option or argument is wrong
    │   └── UnknownNameError  2   a name that nobody offers (with a suggestion)
    ├── PluginError           3   a plugin is missing, broken, ambiguous or misbehaves
    ├── ModelError            4   the model cannot be loaded, located or pruned
    │   └── NumericalError    4   NaN, infinity, or a factorization that fails
    ├── DataError             4   calibration or evaluation data is missing or unfit
    └── GateError             5   a quality gate (``--fail-if``) was missed

Every message names the culprit and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "AtpError",
    "DataError",
    "GateError",
    "ModelError",
    "NumericalError",
    "PluginError",
    "UnknownNameError",
    "UsageError",
]


class AtpError(Exception):
    """Base of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(AtpError):
    """An option or argument is wrong."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that nobody offers; the message lists what is offered and the nearest match.

    Args:
        kind: what the name should have named, e.g. ``"pruning method"``.
        name: the name asked for.
        known: the names on offer.
        also: a further sentence.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], also: str = "") -> None:
        self.kind, self.name, self.known, self.also = kind, name, sorted(known), also
        close = difflib.get_close_matches(name, self.known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        offered = ", ".join(self.known) or "none"
        told = f"unknown {kind} {name!r}.{hint} Available: {offered}."
        super().__init__(f"{told} {also}".strip())

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str], str]]:
        # As it was made, so that it survives the way from another process.
        return type(self), (self.kind, self.name, self.known, self.also)


class PluginError(AtpError):
    """A plugin is missing, broken, ambiguous or misbehaves."""

    exit_code = 3


class ModelError(AtpError):
    """The model cannot be loaded, located or pruned."""

    exit_code = 4


class NumericalError(ModelError):
    """NaN or infinity in weights or activations, or a factorization that fails."""


class DataError(AtpError):
    """Calibration or evaluation data is missing or unfit."""

    exit_code = 4


class GateError(AtpError):
    """A quality gate was missed."""

    exit_code = 5
