"""The model card of a trained model: that of the pruned one, and what was done to it since."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from atp_core.recipe import without_folders

from ._result import TuneResult
from ._settings import TuneSettings

__all__ = ["tuned_card"]

_HEADING: Final = "## Recovery training"
_MODES: Final = {
    "lora": "low-rank updates (LoRA, rank {rank}, alpha {alpha:g}), masked where weights are zero",
    "full": "all kept weights",
}


def tuned_card(card: str, result: TuneResult, settings: TuneSettings, command: str) -> str:
    """The text of the card.

    Args:
        card: of the pruned model; what it says of an earlier training stays.
        result: what training did.
        settings: how.
        command: what repeats it.
    """
    return "\n".join([card.rstrip("\n"), "", *_section(result, settings, command)]) + "\n"


def _section(result: TuneResult, settings: TuneSettings, command: str) -> Iterator[str]:
    mode = _MODES[result.mode].format(rank=settings.lora_rank, alpha=settings.lora_alpha)
    yield _HEADING
    yield ""
    yield (
        f"After pruning the model was trained for {result.steps} steps of {settings.batch} "
        f"samples: {mode}; {result.trained:,} parameters. Every zero was kept: "
        f"{100 * result.sparsity:.2f} % of the prunable weights are zero. The training data was "
        f"{without_folders(result.dataset)} ({result.samples:,} samples); no search or report data "
        "was used. Mean loss of the first and the last tenth of the steps: "
        f"{result.loss_first:.4g} and {result.loss_last:.4g}."
    )
    if settings.teacher is not None:
        yield ""
        yield f"Its teacher, with a share of {settings.share:g} in the loss, was the dense model."
    if result.metrics:
        yield ""
        yield "Any figures above this section are those before the training. Since then:"
        yield ""
        yield "| metric | before | after | difference |"
        yield "|---|---|---|---|"
        for one in result.comparisons:
            yield f"| {one.metric} | {one.reference_value:.4g} | {one.value:.4g} | {one.text} |"
    else:
        yield ""
        yield "Any figures above this section are those before the training."
    yield ""
    yield "```sh"
    yield command
    yield "```"
