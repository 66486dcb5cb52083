"""The model card: ``README.md`` of a pruned model, ready for a model hub."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from ..allocation.betas import beta_text

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..records import Metric
    from ..results import PruneResult

__all__ = ["HONEST_LINE", "model_card"]

HONEST_LINE = (
    "The zeros are dense zeros, stored like any other number: the files are as large, and ordinary "
    "runtimes as fast, as with the dense model. To gain size or speed takes a format or a runtime "
    "made for sparse weights."
)
"""What unstructured sparsity does to size and speed, said wherever results are shown."""

_WHO = {"dense": "dense", "uniform": "uniform", "pruned": "this model"}


def model_card(
    result: PruneResult,
    recipe: Recipe,
    *,
    library_name: str | None = None,
    base_model: str | None = None,
    license_name: str | None = None,
    plugin_distribution: str | None = None,
    figures: Sequence[str] = (),
    extra: dict[str, Any] | None = None,
) -> str:
    """The text of the card.

    Args:
        result: the run that made the model.
        recipe: its settings.
        library_name: the library that loads the model, as hubs spell it, e.g. "transformers".
        base_model: hub name of the dense model, if it has one.
        license_name: licence of the dense model as hubs spell it, if known.
        plugin_distribution: distribution of the plugin that handled the model.
        figures: file names, relative to the card, of figures to show.
        extra: more front matter, e.g. ``{"pipeline_tag": "text-generation"}``; its tags are added
            to ours.
    """
    extra = dict(extra or {})
    tags = ["pruned", "sparse", "atp", *extra.pop("tags", ())]
    matter = {
        "base_model": base_model,
        "library_name": library_name,
        "license": license_name,
        "tags": list(dict.fromkeys(tags)),
        **extra,
    }
    front = yaml.safe_dump(
        {key: value for key, value in matter.items() if value is not None},
        sort_keys=False,
        allow_unicode=True,
    )
    portable = recipe.portable()
    name = base_model or portable.source
    parts = [
        f"---\n{front}---",
        f"# {name}, {100 * result.sparsity:.4g} % of its prunable weights cut",
        _lead(result, recipe, name),
        *_comparison(result),
        "## Size and speed",
        _size(result),
        "## Rates",
        *(f"![{figure}]({figure})" for figure in figures),
        "\n".join(_rates(result)),
        "## How it was made",
        f"```sh\npip install {plugin_distribution or 'atp-prune'}\n{portable.command()}\n```",
        "Every setting as a recipe (`atp prune --recipe FILE`):",
        f"```yaml\n{portable.to_yaml()}```",
        "Versions, machine, seeds, trials and unrounded figures are in `atp.json`.",
    ]
    return "\n\n".join(parts) + "\n"


def _lead(result: PruneResult, recipe: Recipe, name: str) -> str:
    schedule = result.schedule
    text = (
        f"`{name}` pruned without retraining by "
        f"[atp-prune](https://pypi.org/project/atp-prune/): method `{result.search.method}`, "
        f"allocation `{schedule.allocation}`"
    )
    if schedule.beta is not None:
        text += f" with β = {beta_text(schedule.beta)}"
    text += "."
    if schedule.allocation == "atp" and schedule.beta:
        text += (
            " Sparsity rises from block to block in an arithmetic progression, because errors made "
            "in early blocks grow through all that follow "
            "([arXiv 2502.14770](https://arxiv.org/abs/2502.14770))."
        )
    elif schedule.beta == 0.0 and recipe.beta == "search":
        text += " β = 0 is uniform sparsity: the search found nothing better for this model."
    return text


def _comparison(result: PruneResult) -> Iterator[str]:
    if result.metrics["pruned"]:
        yield "## Results"
        yield "\n".join(_results(result))
        yield from _measured(result)


def _results(result: PruneResult) -> Iterator[str]:
    """The table dense / uniform / pruned, a metric a row."""
    present = [who for who in _WHO if result.metrics.get(who)]
    yield "| metric | " + " | ".join(_WHO[who] for who in present) + " |"
    yield "|---|" + "---:|" * len(present)
    for name, metric in result.metrics["pruned"].items():
        arrow = "↑" if metric.higher_is_better else "↓"
        cells = [_figure(result.metrics[who].get(name)) for who in present]
        yield f"| {_cell(name)} {arrow} | " + " | ".join(cells) + " |"


def _measured(result: PruneResult) -> Iterator[str]:
    """How each metric was measured; results without it cannot be compared."""
    yield "Measured on data that played no part in pruning or in choosing rates (± standard error):"
    yield "\n".join(
        f"- {_cell(metric.name)}: {_cell(metric.dataset)}, {metric.n} observations"
        + (f", {_cell(metric.unit)}" if metric.unit else "")
        + (f"; {_cell(metric.convention)}" if metric.convention else "")
        for metric in result.metrics["pruned"].values()
    )


def _size(result: PruneResult) -> str:
    blocks = result.report.blocks
    prunable = sum(block.parameters for block in blocks)
    zeros = sum(block.zeros for block in blocks)
    total = result.total_parameters
    whole = f", {100 * zeros / total:.3g} % of all {total:,} parameters" if total else ""
    on_disk = f" On disk: {result.bytes_on_disk:,} bytes." if result.bytes_on_disk else ""
    return (
        f"{zeros:,} of {prunable:,} prunable weights are zero ({100 * result.sparsity:.4g} %)"
        f"{whole}; all other parameters stay dense.{on_disk} {HONEST_LINE}"
    )


def _rates(result: PruneResult) -> Iterator[str]:
    yield "| chain | block | rate | zeros | prunable weights |"
    yield "|---|---|---:|---:|---:|"
    for block in result.report.blocks:
        yield (
            f"| {_cell(block.chain)} | `{_cell(block.name)}` | {block.rate:.4f} | "
            f"{block.achieved:.4f} | {block.parameters:,} |"
        )


def _figure(metric: Metric | None) -> str:
    if metric is None:
        return "-"
    text = f"{metric.value:.4g}"
    if metric.stderr is not None and math.isfinite(metric.stderr):
        text += f" ± {metric.stderr:.2g}"
    return text


def _cell(text: str) -> str:
    """Text that a Markdown table can hold."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
