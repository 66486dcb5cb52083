"""What a check is: a sentence that is true of a good plugin, and code that finds out."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import AtpError

__all__ = [
    "Check",
    "CheckFailed",
    "CheckSkipped",
    "Outcome",
    "checker",
    "named",
    "python",
    "require",
]


class CheckFailed(AssertionError):
    """What a check says of the plugin is not true; the message says what is, and the remedy."""


class CheckSkipped(Exception):
    """The check does not apply; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of a check.

    Attributes:
        group: what was checked, e.g. "example llama".
        title: what should be true of it.
        outcome: "passed", "failed" or "skipped".
        message: why it failed or was skipped.
        seconds: how long it took.
    """

    group: str
    title: str
    outcome: Literal["passed", "failed", "skipped"]
    message: str
    seconds: float


@dataclass(frozen=True)
class Check:
    """One check of one thing.

    Attributes:
        group: what is checked.
        title: what should be true of it, in the words of a sentence without its subject.
        function: finds out; returns, or raises `CheckFailed` or `CheckSkipped`.
    """

    group: str
    title: str
    function: Callable[[Callable[[str], Path]], None]

    @property
    def id(self) -> str:
        """The check in a word, for a test's name."""
        return f"{self.group}-{self.title}".replace(" ", "_")

    def run(self, directory: Callable[[str], Path]) -> None:
        """Find out.

        Args:
            directory: makes a fresh empty directory of a name.

        Raises:
            CheckFailed: it is not true, or the plugin raised on the way.
            CheckSkipped: it does not apply.
        """
        try:
            self.function(directory)
        except (CheckFailed, CheckSkipped):
            raise
        except AtpError as error:
            raise CheckFailed(str(error)) from error
        except Exception as error:
            raise CheckFailed(f"{type(error).__name__}: {error}") from error

    def outcome(self, directory: Callable[[str], Path]) -> Outcome:
        """Find out, and tell instead of raising."""
        began = time.perf_counter()
        what: Literal["passed", "failed", "skipped"] = "passed"
        message = ""
        try:
            self.run(directory)
        except CheckFailed as error:
            what, message = "failed", str(error)
        except CheckSkipped as error:
            what, message = "skipped", str(error)
        return Outcome(self.group, self.title, what, message, time.perf_counter() - began)


def python(code: str, *arguments: str) -> tuple[str | None, str]:
    """Run code in a Python of its own.

    Returns:
        Why it failed, the last line of what it said, or None; and what it printed.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return None, done.stdout
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else "it failed without a message", done.stdout


def require(condition: bool, message: str) -> None:
    """Fail with `message` unless `condition`."""
    if not condition:
        raise CheckFailed(message)


def checker(
    found: list[tuple[str, Callable[[Any], None]]],
) -> Callable[[str], Callable[[Callable[[Any], None]], Callable[[Any], None]]]:
    """A decorator that adds functions to `found` under their titles, in order."""

    def titled(title: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
        def add(function: Callable[[Any], None]) -> Callable[[Any], None]:
            found.append((title, function))
            return function

        return add

    return titled


def named(names: Sequence[str], most: int = 3) -> str:
    """The first few names, for a message."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
