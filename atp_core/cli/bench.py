"""``atp bench``: how much faster zeros make a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from ._console import emit_json, stdout
from ._options import json_option, load_options, names_of

__all__ = ["command"]


class _Sizes(click.ParamType[Any]):
    """``1,8``."""

    name = "sizes"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse whole numbers above 0."""
        if not isinstance(value, str):
            return value
        try:
            sizes = [int(part) for part in names_of(value)]
        except ValueError:
            sizes = []
        if not sizes or min(sizes) < 1:
            self.fail(f"{value!r} is not of the form 1,8", param, ctx)
        return sizes


_COUNT = click.IntRange(min=1)


@click.command("bench", short_help="Time a pruned model dense against sparse.")
@click.argument("source")
@click.option(
    "--runtime",
    default="auto",
    metavar="NAME",
    help="What executes the sparse model; 'auto' (default) is the one that can run here.",
)
@click.option("--modes", metavar="A,B", help="Time these only: decode, prefill, images, texts.")
@click.option(
    "--batch", "batch_sizes", type=_Sizes(), metavar="N,N", help="Batch sizes (default 1)."
)
@click.option("--tokens", type=_COUNT, metavar="N", help="Tokens of a prompt (default 128).")
@click.option("--steps", type=_COUNT, metavar="N", help="Tokens to decode (default 32).")
@click.option("--rounds", type=_COUNT, metavar="N", help="Pairs of passes (default 11).")
@click.option("--threads", type=_COUNT, metavar="N", help="Threads of torch.")
@click.option("--seed", type=int, metavar="N", help="Of the random inputs (default 0).")
@load_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the result there as JSON.",
)
@json_option
def command(source: str, modes: str | None, as_json: bool, **options: Any) -> None:
    """Time SOURCE, e.g. a directory that `atp prune` wrote, dense against sparse.

    Both run in one process, in pairs and on the same random inputs: a language model reads a
    prompt (prefill) and writes on from it token by token with a cache of keys and values
    (decode); vision models classify images; CLIP models encode images and texts. What counts is
    the median of the ratios of the pairs; beside it stands the range that half of them lie in.
    What the weights take in memory is told too. A runtime that makes use of zeros has to be
    installed: atp-prune-sparse-cpu, or atp-prune-sparse-gpu.
    """
    from ..api import bench
    from ..report.benches import print_bench
    from ._progress import bars

    given = {key: value for key, value in options.items() if value is not None}
    with bars() as progress:
        result = bench(source, modes=names_of(modes or ""), progress=progress, **given)
    if as_json:
        emit_json(result.to_json())
    else:
        print_bench(result, stdout())
