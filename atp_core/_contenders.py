"""Allocations by what a user writes, and the recipe that each of them makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._session import Session
from ._settings import setting_value
from .errors import UsageError
from .recipe import Recipe

__all__ = ["Contender", "contenders"]

_SEARCHES = ("atp-sensitivity", "bayes-")
"""Allocations that "all" leaves out, because each takes many trials: they are named."""


@dataclass(frozen=True)
class Contender:
    """One allocation in a comparison.

    Attributes:
        label: as the user wrote it, e.g. "owl:lambda=0.1".
        settings: what it changes in the recipe.
    """

    label: str
    settings: Mapping[str, Any]

    def recipe(self, session: Session, settings: Mapping[str, Any]) -> Recipe:
        """The session's recipe with this allocation, and without β where that has none.

        Args:
            session: has what all contenders have in common.
            settings: what else differs.

        Raises:
            UnknownNameError: the allocation is not on offer.
            UsageError: a setting is wrong.
        """
        common = session.recipe.model_dump(exclude_unset=True)
        made = Recipe.make({**common, **settings, **self.settings, "output": None})
        allocators = session.plugins.offers("allocators")
        allocators.check(made.allocation)
        if made.schedule or not getattr(allocators.create(made.allocation), "takes_beta", False):
            plain = {"beta": "search", "beta_per_chain": False, "beta_step": None}
            made = made.model_copy(update=plain)
        return made


def contenders(texts: Sequence[str], offered: Sequence[str]) -> list[Contender]:
    """Allocations by what a user writes; uniform sparsity comes first, named or not.

    Args:
        texts: names; ``name:option=value:option=value`` with settings; "all" for every allocation
            that needs no search of its own; or the path of a schedule file (``….json``).
        offered: names on offer.

    Raises:
        UsageError: an option has no value.
    """
    names: list[str] = ["uniform"]
    for text in texts:
        names += [n for n in offered if not n.startswith(_SEARCHES)] if text == "all" else [text]
    return [_contender(name) for name in dict.fromkeys(names)]


def _contender(text: str) -> Contender:
    if text.endswith(".json"):
        return Contender(Path(text).stem, {"schedule": text, "allocation": "uniform"})
    name, *pairs = text.split(":")
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise UsageError(f"{pair!r} in the allocation {text!r} is not of the form option=value")
        options[key] = setting_value(value)
    return Contender(text, {"allocation": name, "allocation_options": options})
