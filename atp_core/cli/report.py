"""``atp report``: one page about pruned models."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ..errors import UsageError
from ._console import emit_json

if TYPE_CHECKING:
    from ..report.page import Format, Run

__all__ = ["command"]

_SUFFIXES: dict[str, Format] = {
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".markdown": "markdown",
}


@click.command("report", short_help="Make one page about pruned models.")
@click.argument(
    "directories", nargs=-1, required=True, metavar="DIR…", type=click.Path(path_type=Path)
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write; an earlier report is replaced, anything else left alone. Default is "
    "stdout.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "markdown"]),
    help="Default is what the name of FILE says, or html.",
)
@click.option("--title", metavar="TEXT", help="Title of the page.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print what the page shows as one JSON object on stdout; the page goes to -o, if given.",
)
def command(
    directories: tuple[Path, ...],
    output: Path | None,
    form: Format | None,
    title: str | None,
    as_json: bool,
) -> None:
    """Make one page about the models in the directories DIR, several side by side.

    A DIR is what `atp prune` or `atp search` wrote; what `atp eval -o DIR` measured is shown too.
    The page needs no other file and no network, names no folder of this machine, and is the same
    to the byte whenever it is made.
    """
    from ..report.page import check_page, page_text, read_runs, write_page

    if output is not None:
        check_page(output)
    chosen = form or _format_of(output)
    to_stdout = output is None and not as_json
    if to_stdout and chosen == "html" and sys.stdout.isatty():
        raise UsageError("a page is not for the terminal; add -o report.html or --format markdown")
    runs = read_runs(directories)
    if to_stdout or output is not None:
        beside = output is None or output.resolve().parent == directories[0].resolve()
        text = page_text(runs, chosen, title=title, images=beside)
        if output is not None:
            write_page(text, output)
        else:
            click.echo(text, nl=False)
    if as_json:
        emit_json(
            {
                "output": None if output is None else str(output),
                "format": chosen,
                "runs": [
                    {"directory": str(directory), **_shown(run)}
                    for directory, run in zip(directories, runs, strict=True)
                ],
            }
        )
    elif output is not None:
        click.echo(f"written to {output}", err=True)


def _format_of(output: Path | None) -> Format:
    if output is None:
        return "html"
    known = _SUFFIXES.get(output.suffix.lower())
    if known is None:
        raise UsageError(
            f"the name {output.name} does not tell a format; end it in .html or .md, or add "
            "--format html or --format markdown"
        )
    return known


def _shown(run: Run) -> dict[str, Any]:
    evaluation = run.evaluation
    return {
        "name": run.name,
        "model": run.model,
        "plugin": run.outcome.plugin,
        "method": run.outcome.method,
        "allocation": run.allocation,
        "sparsity_target": run.target,
        "sparsity_achieved": run.outcome.sparsity_achieved,
        "beta": run.beta,
        "metrics": {
            who: {name: asdict(metric) for name, metric in found.items()}
            for who, found in run.metrics.items()
        },
        "comparisons": [one.model_dump() for one in run.outcome.comparisons],
        "evaluation": None if evaluation is None else evaluation.model_dump(),
    }
