"""``atp quantize``: bits per block from a schedule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from atp_core.cli.kit import (
    bars,
    data_options,
    emit_json,
    json_option,
    load_options,
    names_of,
    overwrite_option,
    stdout,
)
from atp_core.errors import UsageError

if TYPE_CHECKING:
    from ._result import QuantizeResult

__all__ = ["command"]


@click.command("quantize", short_help="Quantize a model, with bits per block from a schedule.")
@click.argument("source")
@click.option(
    "--bits", type=float, metavar="B", help="Bits of a weight on average, such as 4 or 3.5."
)
@click.option(
    "--method",
    type=click.Choice(["rtn", "gptq"]),
    help="Solver: gptq (default; takes calibration data), or rtn (rounds to nearest).",
)
@click.option(
    "--allocation",
    metavar="uniform|atp|FILE",
    help="How bits are spread over blocks: atp (default; fewer in late blocks), uniform, or a JSON "
    "file such as the quant.json of an output.",
)
@click.option(
    "--beta",
    metavar="search|FLOAT",
    help="Bits by which a block has fewer than the one before it: search (default) or a number.",
)
@click.option("--widths", metavar="A,B", help="Widths that blocks can get (default 2 to 8).")
@click.option(
    "--group-size",
    type=int,
    metavar="N",
    help="Neighbouring weights of a row that share a scale (default 128); -1 is the whole row.",
)
@click.option(
    "--symmetric/--asymmetric", default=None, help="Without (default) or with zero points."
)
@click.option(
    "--clip/--no-clip",
    default=None,
    help="Choose scales by the squared error (default), or by the range alone.",
)
@click.option(
    "-s",
    "--sparsity",
    type=float,
    metavar="S",
    help="Cut this share of every block's weights in the same pass (gptq).",
)
@click.option(
    "--schedule",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Cut the rates of this schedule.json instead.",
)
@click.option(
    "--format",
    type=click.Choice(["auto", "compressed-tensors", "dense"]),
    help="Packed for transformers, or dense; default is packed where the model can be.",
)
@click.option(
    "--baseline/--no-baseline",
    default=None,
    help="Measure uniform bits beside the result (default).",
)
@click.option("--chains", metavar="A,B", help="Quantize these chains only.")
@click.option(
    "--objective",
    metavar="NAME",
    help="What the search optimizes; default is the first metric of the plugin.",
)
@data_options
@load_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Directory to write."
)
@overwrite_option
@json_option
def command(
    source: str, output: Path | None, overwrite: bool, as_json: bool, **options: Any
) -> None:
    """Quantize the weights of SOURCE's blocks, and write it for transformers to load.

    SOURCE may be an output of `atp prune`: its zeros stay zeros.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if output is None:
        raise UsageError("say where to write the quantized model: -o DIR")
    if "widths" in given:
        try:
            given["widths"] = tuple(int(width) for width in given["widths"].split(","))
        except ValueError:
            raise UsageError(f"--widths {given['widths']!r} is not of the form 2,3,4,8") from None
    if given.get("beta", "search") != "search":
        try:
            given["beta"] = float(given["beta"])
        except ValueError:
            raise UsageError(f"--beta {given['beta']!r} is neither 'search' nor a number") from None
    if "chains" in given:
        given["chains"] = names_of(given["chains"])
    from .api import Request, quantize

    asked = {name: given.pop(name) for name in Request.__dataclass_fields__ if name in given}
    with bars() as progress:
        result = quantize(
            source, Request(**asked), output=output, overwrite=overwrite, progress=progress, **given
        )
    if as_json:
        emit_json(result.to_json())
    else:
        _show(result)


def _show(result: QuantizeResult) -> None:
    from rich.table import Table

    console = stdout()
    beta = "" if result.beta is None else f", β = {result.beta:.4g} bits a block"
    console.print(
        f"{result.bits:.3f} bits a weight on average ({result.stored_bits:.3f} with scales){beta}, "
        f"{result.sparsity:.1%} zeros",
        highlight=False,
    )
    widths = [str(block.bits) for block in result.blocks]
    console.print(f"bits by block: {' '.join(widths)}", highlight=False)
    table = Table("metric", *result.metrics)
    for name in result.metrics["quantized"]:
        # The dense model has no figure of a comparison with itself.
        figures = [found.get(name) for found in result.metrics.values()]
        table.add_row(name, *("" if one is None else f"{one.value:.4g}" for one in figures))
    if result.metrics["quantized"]:
        console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False)
    size = result.bytes_on_disk or 0
    console.print(f"{result.output}: {result.format}, {size / 1e6:.1f} MB", highlight=False)
