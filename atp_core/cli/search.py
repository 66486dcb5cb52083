"""``atp search``: find a schedule, write no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from ._console import emit_json, stdout
from ._options import (
    data_options,
    load_options,
    memory_options,
    output_options,
    recipe_from,
    schedule_options,
)

__all__ = ["command"]


@click.command("search", short_help="Find the schedule only.")
@click.argument("source", required=False)
@schedule_options
@data_options
@load_options
@memory_options
@output_options
def command(
    source: str | None,
    recipe_file: Path | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the schedule `atp prune` would use for SOURCE.

    Writes schedule.json, trials.jsonl and figures to -o, if given.
    """
    recipe = recipe_from(source, recipe_file, options)
    from ..api import run_search
    from ..records import Source
    from ..report.terminal import print_search
    from ._progress import bars

    with bars() as progress:
        result = run_search(
            recipe,
            Source(recipe.source),
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        emit_json(result.to_json())
    else:
        print_search(result, stdout(), output=recipe.output)
