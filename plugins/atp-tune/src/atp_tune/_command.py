"""``atp tune``: train a pruned model again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from atp_core.cli.kit import (
    bars,
    emit_json,
    json_option,
    label_options,
    load_options,
    names_of,
    stdout,
)

__all__ = ["command"]


@click.command("tune", short_help="Train a pruned model again, with every zero kept.")
@click.argument("source", metavar="DIR")
@click.option(
    "--mode",
    type=click.Choice(["lora", "full"]),
    help="Train masked low-rank updates of the prunable weights (default), or all kept ones.",
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Optimizer steps.")
@click.option(
    "--epochs",
    type=float,
    metavar="N",
    help="Passes over the samples instead of --steps; without either, one.",
)
@click.option(
    "--lr",
    type=float,
    metavar="RATE",
    help="Peak of the learning rate (default 1e-3 for lora, 2e-4 for full).",
)
@click.option(
    "--batch", type=click.IntRange(min=1), metavar="N", help="Samples a step (default 8)."
)
@click.option(
    "--rank", type=click.IntRange(min=1), metavar="N", help="Rank of the updates (default 16)."
)
@click.option(
    "--alpha", type=float, metavar="X", help="Scale them by alpha / rank (default: twice the rank)."
)
@click.option("--weight-decay", type=float, metavar="X", help="Of AdamW (default 0).")
@click.option("--biases", is_flag=True, help="Train biases too.")
@click.option("--norms", is_flag=True, help="Train the parameters of normalizations too.")
@click.option(
    "--teacher",
    metavar="SOURCE",
    help="Learn from the outputs of this model too, usually the dense one.",
)
@click.option(
    "--teacher-weight",
    type=float,
    metavar="X",
    help="Share of the teacher in the loss, up to 1 (default 0.5).",
)
@click.option(
    "--calibration",
    metavar="FILE|DIR|hf:NAME",
    help="Data to train on: its calibration part. A JSONL file of chats ('messages') teaches what "
    "the assistant says.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Different samples to train on; default is what there is, up to 4096.",
)
@label_options
@click.option("--seqlen", type=click.IntRange(min=2), metavar="N", help="Tokens a sample.")
@click.option("--chains", metavar="A,B", help="Train these chains only.")
@click.option(
    "--eval",
    "evaluate",
    is_flag=True,
    help="Measure on the report split before and after, as atp eval does.",
)
@click.option("--report-data", metavar="FILE|DIR|hf:NAME", help="Data for --eval.")
@click.option(
    "--report-samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most this many samples of it.",
)
@click.option("--seed", type=int, metavar="N", help="Seed of every random choice (default 0).")
@load_options
@click.option(
    "--save-every",
    type=click.IntRange(min=1),
    metavar="N",
    help="Steps between checkpoints (default: a tenth of all).",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    required=True,
    help="Directory to write.",
)
@click.option("--resume", is_flag=True, help="Go on with the interrupted training of -o.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace an earlier output in -o, and start over where a training was interrupted.",
)
@json_option
def command(source: str, as_json: bool, **options: Any) -> None:
    """Train the pruned model in DIR, so that it recovers, and write it to another directory.

    Every zero stays a zero. It learns from the calibration part of --calibration: text or chats
    for language models, images in a folder a class for classifiers, images with texts for CLIP.
    """
    from ._run import tune
    from ._terminal import print_tuned

    given = {key: value for key, value in options.items() if value is not None}
    if "chains" in given:
        given["chains"] = names_of(given["chains"])
    with bars() as progress:
        result = tune(source, progress=progress, **given)
    if as_json:
        emit_json(result.to_json())
    else:
        print_tuned(result, stdout())
