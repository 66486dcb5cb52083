"""``atp plugins check``: whether a plugin does what the specifications ask for."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ._console import emit_json, stderr, stdout
from ._options import json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._plugins import PluginStatus
    from ..testing import Example
    from ..testing._check import Outcome

__all__ = ["command"]

_MARKS = {"passed": "[green]✓[/]", "failed": "[bold red]✗[/]", "skipped": "[dim]–[/]"}


@click.command("check", short_help="Check a plugin.")
@click.argument("name")
@click.option("--source", help="Walk this model too, beside the plugin's own examples.")
@click.option("--calibration", metavar="DATA", help="Calibration data for --source.")
@click.option("--report-data", metavar="DATA", help="Report data for --source.")
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Samples for --source.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    name: str,
    source: str | None,
    calibration: str | None,
    report_data: str | None,
    samples: int | None,
    as_json: bool,
) -> None:
    """Check that the plugin NAME does what the hook specifications ask for.

    Its package is looked at, the tiny models it offers are walked from source to saved directory
    and back, and the methods, allocations, executors, runtimes and commands it offers are tried.
    Ends with exit code 3 if a check fails. `atp_core.testing.Conformance` runs the same checks as
    tests.
    """
    from ..errors import UsageError
    from ..records import DataRequest, Source
    from ..testing import Example

    extra = None
    if source is not None:
        few = samples or 8
        data = DataRequest(
            calibration, report_data, samples=few, search_samples=few, report_samples=few
        )
        extra = Example(Source(source), data)
    elif calibration or report_data or samples:
        raise UsageError("--calibration, --report-data and --samples are for --source; give one")
    status, outcomes = _run(name, extra)
    failed = [outcome for outcome in outcomes if outcome.outcome == "failed"]
    if as_json:
        emit_json(
            {
                "name": status.name,
                "distribution": status.distribution,
                "version": status.version,
                "ok": not failed,
                "checks": [
                    {
                        "group": outcome.group,
                        "title": outcome.title,
                        "outcome": outcome.outcome,
                        "message": outcome.message,
                        "seconds": round(outcome.seconds, 3),
                    }
                    for outcome in outcomes
                ],
            }
        )
    else:
        _show(str(status), outcomes)
    if failed:
        context.exit(3)


def _run(name: str, extra: Example | None) -> tuple[PluginStatus, Sequence[Outcome]]:
    """The plugin's status, and what became of every check; progress on stderr."""
    from .._plugins import build_manager
    from ..testing._suite import suite

    plugins = build_manager()
    status = plugins.status(name)
    checks = suite(name, plugins, extra)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="atp-check-") as folder:

        def directory(purpose: str) -> Path:
            return Path(tempfile.mkdtemp(prefix=f"{purpose}-".replace("/", "-"), dir=folder))

        from rich.progress import Progress

        with Progress(console=stderr(), transient=True) as bar:
            task = bar.add_task(f"checking {name}", total=len(checks))
            for check in checks:
                bar.update(task, description=check.group)
                outcomes.append(check.outcome(directory))
                bar.advance(task)
    return status, outcomes


def _show(plugin: str, outcomes: Sequence[Outcome]) -> None:
    from rich.markup import escape

    out = stdout()
    out.print(escape(plugin), highlight=False)
    group = None
    for outcome in outcomes:
        if outcome.group != group:
            group = outcome.group
            out.print(f"\n[bold]{escape(group)}[/]", highlight=False)
        out.print(f"  {_MARKS[outcome.outcome]} {escape(outcome.title)}", highlight=False)
        if outcome.message:
            style = "red" if outcome.outcome == "failed" else "dim"
            out.print(f"    [{style}]{escape(outcome.message)}[/]", highlight=False)
    counts = {what: sum(o.outcome == what for o in outcomes) for what in _MARKS}
    out.print(
        f"\n{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped",
        highlight=False,
    )
