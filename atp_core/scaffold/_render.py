"""From templates to the files of a plugin.

Templates lie under ``templates/``: those of ``common`` belong to every kind. A file's path there
is its path in the plugin, but that ``package`` stands for the package's name, ``dot_`` for a dot,
and ``.tmpl`` keeps a template from being taken for code. In it, ``@{name}`` is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from packaging.version import Version

from .. import __version__
from ._kinds import KINDS, Kind
from ._names import Names

__all__ = ["render", "version_range"]

_SUFFIX: Final = ".tmpl"

# Braces are part of it, so that decorators, actions of a version and shells stay as they are.
_GAP: Final = re.compile(r"@\{(\w+)\}")


def render(names: Names, kind: Kind) -> dict[str, str]:
    """Path → content of every file of a new plugin.

    Args:
        names: of the plugin.
        kind: what it offers.
    """
    template = KINDS[kind]
    requires = [f"atp-prune{version_range(__version__)}", *template.requires]
    values = {
        **vars(names),
        "description": template.description.format(names.plugin),
        "requires": "\n".join(f'    "{line}",' for line in requires),
    }
    home = files(__package__) / "templates"
    found: dict[str, str] = {}
    for part in ("common", kind):
        for path, text in _templates(home / part):
            found[_place(path, names)] = _GAP.sub(lambda gap: values[gap[1]], text)
    return dict(sorted(found.items()))


def version_range(version: str) -> str:
    """The versions of atp-prune that a plugin written for `version` works with.

    Before 1.0 a minor version may break things, and later a major one.
    """
    known = Version(version)
    # A plain lower bound would shut out the very pre-release the plugin was made with.
    lowest = known.public if known.is_prerelease else f"{known.major}.{known.minor}"
    highest = f"{known.major + 1}" if known.major else f"0.{known.minor + 1}"
    return f">={lowest},<{highest}"


def _templates(folder: Traversable, path: str = "") -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        inner = f"{path}/{entry.name}" if path else entry.name
        if entry.is_dir():
            yield from _templates(entry, inner)
        elif entry.name.endswith(_SUFFIX):
            yield inner, entry.read_text(encoding="utf-8")


def _place(path: str, names: Names) -> str:
    """Where in the plugin the template at `path` belongs."""
    parts = path.removesuffix(_SUFFIX).split("/")
    named = (names.package if part == "package" else part for part in parts)
    return "/".join(re.sub("^dot_", ".", part) for part in named)
