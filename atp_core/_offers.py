"""What plugins register by name, and how a name becomes the thing it names."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .errors import PluginError, UnknownNameError
from .records import Offer

__all__ = ["Offers"]


class Offers(Mapping[str, Offer]):
    """Offers of one kind by name.

    Args:
        kind: what they are, for messages, e.g. "pruning method".
        offers: all offers, each with its origin.

    Raises:
        PluginError: two plugins offer the same name.
    """

    def __init__(self, kind: str, offers: Sequence[Offer]) -> None:
        self._kind = kind
        self._offers: dict[str, Offer] = {}
        for offer in offers:
            other = self._offers.setdefault(offer.name, offer)
            if other is not offer:
                raise PluginError(
                    f"{other.origin} and {offer.origin} both offer the {kind} {offer.name!r}; "
                    "disable one of them with ATP_DISABLE_PLUGINS"
                )

    def __getitem__(self, name: str) -> Offer:
        try:
            return self._offers[name]
        except KeyError:
            raise UnknownNameError(self._kind, name, self._offers) from None

    def __contains__(self, name: object) -> bool:
        return name in self._offers

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._offers))

    def __len__(self) -> int:
        return len(self._offers)

    def check(self, name: str) -> None:
        """Make sure that `name` is on offer, without building it.

        Raises:
            UnknownNameError: nobody offers it.
        """
        self[name]

    def create(self, name: str, *arguments: Any) -> Any:
        """Build what is offered under `name`.

        Args:
            name: the name on offer.
            arguments: what its target takes.

        Raises:
            UnknownNameError: nobody offers it.
            PluginError: its target cannot be imported or built.
        """
        offer = self[name]
        try:
            target = offer.target
            if isinstance(target, str):
                module, _, attribute = target.partition(":")
                target = getattr(importlib.import_module(module), attribute)
            return target(*arguments)
        except Exception as error:
            raise PluginError(
                f"the {self._kind} {name!r} of {offer.origin} cannot be built: "
                f"{type(error).__name__}: {error}"
            ) from error
