"""``atp plugins new``: write a plugin to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import rich_click as click

from ..scaffold import KINDS
from ._console import emit_json
from ._options import json_option

__all__ = ["command"]


@click.command("new", short_help="Write a new plugin.")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(list(KINDS)),
    required=True,
    help="What the plugin offers: "
    + "; ".join(f"{kind}, {template.what}" for kind, template in KINDS.items())
    + ".",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory to make the folder atp-NAME in; default is the current one.",
)
@json_option
def command(name: str, kind: Any, output: Path | None, as_json: bool) -> None:
    """Write a plugin called NAME to start from.

    It is complete: it installs, is found, has tests, and passes `atp plugins check NAME`. NAME is
    what users will write, in lower case, with hyphens: my-method.
    """
    from ..scaffold import new_plugin

    made = new_plugin(name, kind, output)
    if as_json:
        emit_json(
            {
                "name": made.names.plugin,
                "distribution": made.names.distribution,
                "directory": str(made.directory),
                "files": list(made.files),
            }
        )
        return
    click.echo(f"{made.directory}: {KINDS[made.kind].what}, as {made.names.distribution}")
    for file in made.files:
        click.echo(f"  {file}")
    click.echo(
        f"\nNext:\n"
        f"  cd {shlex.quote(str(made.directory))}\n"
        f"  pip install -e '.[test]'\n"
        f"  pytest\n"
        f"  atp plugins check {made.names.plugin}\n"
        f"README.md says what to put where."
    )
