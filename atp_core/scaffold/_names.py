"""What a new plugin is called, in each of the places that name it."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from packaging.utils import canonicalize_name

from ..errors import UsageError
from ._kinds import KINDS, Kind

if TYPE_CHECKING:
    from .._plugins import Plugins

__all__ = ["Names", "names_for"]

_FORM: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST: Final = 30  # so that the lines of generated code stay short too
_OWN: Final = re.compile(r"atp-(prune-)?(?=.)")


@dataclass(frozen=True)
class Names:
    """The names of one plugin.

    Attributes:
        plugin: name of the entry point, and of what it offers, e.g. "my-method".
        package: what Python imports, "atp_my_method".
        distribution: what pip installs, "atp-prune-my-method".
        folder: where its sources lie, "atp-my-method".
        class_name: its class, "MyMethod"; the kind is part of it, so that it hides no import.
    """

    plugin: str
    package: str
    distribution: str
    folder: str
    class_name: str


def names_for(plugin: str, kind: Kind) -> Names:
    """The names that follow from the plugin's.

    Args:
        plugin: what the author wrote.
        kind: what the plugin offers.

    Raises:
        UsageError: it cannot serve as the name of a distribution and of a package.
    """
    _check_form(plugin)
    words = [*plugin.split("-"), kind] if not plugin.endswith(kind) else plugin.split("-")
    return Names(
        plugin=plugin,
        package=f"atp_{plugin.replace('-', '_')}",
        distribution=f"atp-prune-{plugin}",
        folder=f"atp-{plugin}",
        class_name="".join(word.capitalize() for word in words),
    )


def check_free(names: Names, kind: Kind, plugins: Plugins) -> None:
    """Make sure that nothing that is installed has one of the names.

    Args:
        names: of the new plugin.
        kind: what it offers.
        plugins: those that are installed.

    Raises:
        UsageError: something has.
    """
    for status in plugins.statuses:
        if names.plugin == status.name:
            raise UsageError(
                f"{status.distribution} {status.version}, which is installed, already provides a "
                f"plugin called {names.plugin!r}; choose another name"
                + (
                    f", or uninstall it first: pip uninstall {status.distribution}"
                    if status.name != "core"
                    else ""
                )
            )
        if names.distribution == canonicalize_name(status.distribution):
            raise UsageError(
                f"the distribution would be called {names.distribution}, and one of that name is "
                f"installed: it provides the plugin {status.name!r}. Choose another name, or "
                f"uninstall it first: pip uninstall {status.distribution}"
            )
    offered = KINDS[kind].offers
    if offered is not None and names.plugin in (offers := plugins.offers(offered)):
        raise UsageError(
            f"{offers[names.plugin].origin} already offers {KINDS[kind].what} called "
            f"{names.plugin!r}, and two of one name cannot be told apart; choose another name"
        )


def _check_form(name: str) -> None:
    own = _OWN.match(name)
    if own is not None:
        raise UsageError(
            f"leave {own[0]!r} out of {name!r}: a plugin called {name[own.end() :]!r} gets the "
            f"distribution atp-prune-{name[own.end() :]} by itself"
        )
    if _FORM.fullmatch(name) is None:
        better = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        hint = f"; {better!r} would do" if _FORM.fullmatch(better) else ""
        raise UsageError(
            f"{name!r} cannot name a plugin: write lower-case letters and digits, words joined by "
            f"hyphens, a letter first, as in 'my-method'{hint}"
        )
    if len(name) > _LONGEST:
        raise UsageError(
            f"{name!r} has {len(name)} characters, and a plugin's name at most {_LONGEST}; choose "
            "a shorter one"
        )
    if keyword.iskeyword(name) or keyword.iskeyword(name.capitalize()):
        raise UsageError(
            f"{name!r} is a word of Python itself; choose another name, e.g. 'my-{name}'"
        )
