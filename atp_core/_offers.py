"""What plugins register by name, and how a name becomes the thing it names."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ._aside import aside
from .errors import PluginError, UnknownNameError
from .records import Offer

__all__ = ["Offers"]


class Offers(Mapping[str, Offer]):
    """Offers of one kind by name.

    A name that several plugins offer is an error only where it is asked for.

    Args:
        kind: what they are, for messages, e.g. "pruning method".
        offers: plugin and offer, each with its origin.
        silent: plugins that could not say what they offer, for messages.
    """

    def __init__(
        self, kind: str, offers: Sequence[tuple[str, Offer]], silent: Sequence[str] = ()
    ) -> None:
        self._kind = kind
        self._silent = silent
        self._offers: dict[str, list[tuple[str, Offer]]] = {}
        for plugin, offer in offers:
            self._offers.setdefault(offer.name, []).append((plugin, offer))

    def __getitem__(self, name: str) -> Offer:
        found = self._offers.get(name)
        if found is None:
            raise UnknownNameError(self._kind, name, self._offers, self._perhaps())
        if len(found) > 1:
            raise PluginError(self._clash(name))
        return found[0][1]

    def __contains__(self, name: object) -> bool:
        return name in self._offers

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._offers))

    def __len__(self) -> int:
        return len(self._offers)

    def all(self, name: str) -> list[Offer]:
        """Everything offered under `name`."""
        return [offer for _, offer in self._offers.get(name, ())]

    def clashes(self) -> list[str]:
        """A sentence for each name that several plugins offer."""
        return [self._clash(name) for name, found in self._offers.items() if len(found) > 1]

    def check(self, name: str) -> None:
        """Make sure that `name` is on offer, without building it.

        Raises:
            UnknownNameError: nobody offers it.
            PluginError: several plugins offer it.
        """
        self[name]

    def create(self, name: str, *arguments: Any) -> Any:
        """Build what is offered under `name`.

        Args:
            name: the name on offer.
            arguments: what its target takes.

        Raises:
            UnknownNameError: nobody offers it.
            PluginError: several plugins offer it, or its target cannot be imported or built.
        """
        offer = self[name]
        try:
            with aside():
                target = offer.target
                if isinstance(target, str):
                    module, _, attribute = target.partition(":")
                    target = getattr(importlib.import_module(module), attribute)
                return target(*arguments)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"the {self._kind} {name!r} of {offer.origin} cannot be built: "
                f"{type(error).__name__}: {error}; report it to the authors of {offer.origin}"
            ) from error

    def _clash(self, name: str) -> str:
        found = self._offers[name]
        origins = [
            offer.origin if plugin == "core" else f"{offer.origin} (plugin {plugin!r})"
            for plugin, offer in found
        ]
        return (
            f"{' and '.join(origins)} {'both' if len(found) == 2 else 'all'} offer the "
            f"{self._kind} {name!r}; leave one of them out: "
            f"ATP_DISABLE_PLUGINS={found[-1][0]}"
        )

    def _perhaps(self) -> str:
        if not self._silent:
            return ""
        return (
            f"It may be an offer of {' or '.join(self._silent)}, which is broken "
            "(`atp plugins list` tells why)."
        )
