"""Settings of an allocation: known names, the right kind, inside their range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UsageError

__all__ = ["choice", "number", "only", "whole"]


def only(allocation: str, options: Mapping[str, Any], *names: str) -> None:
    """Refuse an option that is not one of `names`.

    Raises:
        UsageError: names the option and those there are.
    """
    for option in options:
        if option not in names:
            known = f"it has {', '.join(map(repr, names))}" if names else "it has none"
            raise UsageError(f"the {allocation} allocation has no option {option!r}; {known}")


def number(
    options: Mapping[str, Any], name: str, default: float, low: float, high: float
) -> float:
    """A number in [low, high].

    Raises:
        UsageError: it is no number, or lies outside.
    """
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UsageError(
            f"the option {name!r} must be a number in [{low:g}, {high:g}], not {value!r}"
        )
    return float(value)


def whole(options: Mapping[str, Any], name: str, default: int, least: int) -> int:
    """A whole number.

    Raises:
        UsageError: it is none, or less than `least`.
    """
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"the option {name!r} must be a whole number from {least}, not {value!r}")
    return value


def choice(options: Mapping[str, Any], name: str, default: str, *known: str) -> str:
    """One of several words.

    Raises:
        UsageError: it is another.
    """
    value = options.get(name, default)
    if value not in known:
        raise UsageError(f"the option {name!r} must be one of {', '.join(known)}, not {value!r}")
    return str(value)
