"""``atp eval``: measure a model on the report split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from ._console import emit_json, stdout
from ._options import json_option, label_options, load_options, memory_options, task_options

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
@task_options
@click.option(
    "--compare",
    multiple=True,
    metavar="SOURCE",
    help="Compare with this model, document by document or image by image; may be repeated.",
)
@click.option(
    "--runtime",
    metavar="NAME",
    help="Execute SOURCE by this runtime, which makes use of its zeros ('auto' for the one that "
    "can run here); models of --compare stay with torch.",
)
@load_options
@memory_options
@click.option(
    "--fail-if",
    "gates",
    multiple=True,
    metavar="GATE",
    help="End with exit code 5 if a metric is past a value ('perplexity>30'), if it differs by "
    "too much from a model of --compare ('top1:delta<-1'), or if any is 'worse'.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write eval.json there; the directory of a pruned model will do.",
)
@click.option("--resume", is_flag=True, help="Continue the interrupted run that was writing -o.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier eval.json in -o.")
@json_option
def command(
    source: str, metrics: str | None, gates: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Measure SOURCE (a model, or a directory `atp prune` wrote) on the report split.

    With --tasks, on tasks of lm-eval: zeroshot7 stands for the seven of the ATP paper (boolq, piqa,
    hellaswag, winogrande, arc_easy, arc_challenge, openbookqa). With --compare, figures of two
    models are paired, and a verdict says whether they differ by more than noise.
    """
    from ..api import evaluate
    from ..gates import check_comparisons, check_gates, parse_gates
    from ..report.comparisons import print_comparisons
    from ..report.terminal import print_evaluation
    from ._progress import bars

    of_metrics, of_comparisons = parse_gates(gates, compares=bool(options["compare"]))
    names = [name.strip() for name in metrics.split(",")] if metrics else None
    given = {key: value for key, value in options.items() if value is not None}
    with bars() as progress:
        result = evaluate(source, metrics=names, progress=progress, **given)
    if as_json:
        emit_json(result.to_json())
    else:
        print_evaluation(result, stdout())
        print_comparisons(result.comparisons, stdout())
    check_comparisons(of_comparisons, result.comparisons)
    check_gates(of_metrics, result.metrics)
