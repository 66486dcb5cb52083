"""What is checked of everything that a plugin offers by name."""

from __future__ import annotations

from typing import Any

from ..._offers import Offers
from .._check import require

__all__ = ["OfferSubject", "built"]


class OfferSubject:
    """Something on offer.

    Args:
        offers: where it is offered.
        name: under which name.
    """

    def __init__(self, offers: Offers, name: str) -> None:
        self._offers, self.name = offers, name

    def build(self) -> Any:
        """A new one."""
        return self._offers.create(self.name)


def built(subject: OfferSubject) -> Any:
    """It, built, once it is clear that it has the name it is offered under."""
    made = subject.build()
    require(
        made.name == subject.name,
        f"it is offered as {subject.name!r} and calls itself {made.name!r}",
    )
    return made
