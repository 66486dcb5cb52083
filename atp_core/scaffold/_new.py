"""Writing a new plugin, all of it or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ._kinds import Kind
from ._names import Names, check_free, names_for
from ._render import render

if TYPE_CHECKING:
    from .._plugins import Plugins

__all__ = ["Scaffold", "new_plugin"]


@dataclass(frozen=True)
class Scaffold:
    """A plugin that was written.

    Attributes:
        names: what it is called.
        kind: what it offers.
        directory: its folder.
        files: its files, relative to the folder, sorted.
    """

    names: Names
    kind: Kind
    directory: Path
    files: Sequence[str]


def new_plugin(
    name: str, kind: Kind, parent: Path | None = None, *, plugins: Plugins | None = None
) -> Scaffold:
    """Write a plugin that installs, is found, and passes ``atp plugins check`` as it stands.

    Args:
        name: what users will write, e.g. "my-method".
        kind: what it offers.
        parent: directory to make the folder ``atp-NAME`` in; None is the current one.
        plugins: those whose names are taken; found by discovery if None.

    Raises:
        UsageError: the name is unfit or taken, or the folder exists and holds something.
    """
    # Imported here, so that commands that only tell of the kinds stay quick.
    from ..checkpoint.atomic import atomic_directory

    names = names_for(name, kind)
    if plugins is None:
        from .._plugins import build_manager

        plugins = build_manager()
    check_free(names, kind, plugins)
    directory = (Path() if parent is None else parent) / names.folder
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(
            f"{directory} exists and is not empty, so it is left alone; remove it yourself, or "
            "choose another place with -o"
        )
    rendered = render(names, kind)
    with atomic_directory(directory, overwrite_ok=False) as work:
        for path, text in rendered.items():
            file = work / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
    return Scaffold(names, kind, directory, list(rendered))
