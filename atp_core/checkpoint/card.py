"""The model card: ``README.md`` of a pruned model, ready for a model hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from .._document import Code, Document, Image, Listing, Paragraph, Part, Section, to_markdown
from .._document.results import comparison_table, lead, measured_bullets, rates_table
from .._document.wording import HONEST_LINE, percent, size

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..results import PruneResult

__all__ = ["model_card"]


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
    schedule = result.schedule
    text = Document(
        f"{name}, {percent(result.sparsity)} of its prunable weights cut",
        [
            lead(
                name,
                result.search.method,
                schedule.allocation,
                schedule.beta,
                searched=recipe.beta == "search",
            ),
            *_results(result),
            Section("Size and speed", [Paragraph(_size(result))]),
            Section("Rates", [*(Image(file, file) for file in figures), _rates(result)]),
            Section("How it was made", [*_made(portable, plugin_distribution)]),
        ],
    )
    return f"---\n{front}---\n\n{to_markdown(text)}"


def _results(result: PruneResult) -> Iterator[Part]:
    if result.metrics["pruned"]:
        yield Section(
            "Results",
            [
                comparison_table(result.metrics),
                Paragraph(
                    "Measured on data that played no part in pruning or in choosing rates "
                    "(± standard error):"
                ),
                measured_bullets(result.metrics["pruned"]),
            ],
        )


def _size(result: PruneResult) -> str:
    blocks = result.report.blocks
    zeros = sum(block.zeros for block in blocks)
    prunable = sum(block.parameters for block in blocks)
    text = f"{size(zeros, prunable, result.total_parameters)}; all other parameters stay dense."
    if result.bytes_on_disk:
        text += f" On disk: {result.bytes_on_disk:,} bytes."
    return f"{text} {HONEST_LINE}"


def _rates(result: PruneResult) -> Part:
    return rates_table(
        (block.chain, block.name, block.rate, block.achieved, block.parameters)
        for block in result.report.blocks
    )


def _made(portable: Recipe, distribution: str | None) -> Iterator[Part]:
    yield Listing(f"pip install {distribution or 'atp-prune'}\n{portable.command()}", "sh")
    yield Paragraph(["Every setting as a recipe (", Code("atp prune --recipe FILE"), "):"])
    yield Listing(portable.to_yaml(), "yaml")
    yield Paragraph(
        ["Versions, machine, seeds, trials and unrounded figures are in ", Code("atp.json"), "."]
    )
