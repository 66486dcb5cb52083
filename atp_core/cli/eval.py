"""``atp eval``: measure a model on the report split."""

from __future__ import annotations

from typing import Any

import rich_click as click

from ._console import emit_json, stdout
from ._options import label_options, load_options

__all__ = ["command"]


@click.command("eval", short_help="Measure a model.")
@click.argument("source")
@click.option("--report-data", metavar="FILE|DIR|hf:NAME", help="Data to measure on.")
@click.option(
    "--report-samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most this many samples of it.",
)
@label_options
@click.option("--seqlen", type=click.IntRange(min=2), metavar="N", help="Tokens a sample.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Samples that go through the model at once (default 1).",
)
@click.option("--metrics", metavar="A,B", help="Measure these only.")
@load_options
@click.option(
    "--fail-if",
    "gates",
    multiple=True,
    metavar="'METRIC>VALUE'",
    help="End with exit code 5 if a metric is past this value.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    source: str, metrics: str | None, gates: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Measure SOURCE (a model, or a directory `atp prune` wrote) on the report split."""
    from ..api import evaluate
    from ..gates import check_gates, parse_gate
    from ..report.terminal import print_evaluation
    from ._progress import bars

    parsed = [parse_gate(gate) for gate in gates]
    names = [name.strip() for name in metrics.split(",")] if metrics else None
    given = {key: value for key, value in options.items() if value is not None}
    with bars() as progress:
        result = evaluate(source, metrics=names, progress=progress, **given)
    if as_json:
        emit_json(result.to_json())
    else:
        print_evaluation(result, stdout())
    check_gates(parsed, result.metrics)
