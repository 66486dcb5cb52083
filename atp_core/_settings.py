"""Settings as users write them on a command line."""

from __future__ import annotations

__all__ = ["setting_value"]


def setting_value(text: str) -> bool | int | float | str:
    """A number, true or false, or else the text itself."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
