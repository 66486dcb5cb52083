"""Measuring a vision-language model on questions about images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from atp_core.errors import DataError, UnknownNameError
from atp_core.measuring import spelt_out
from atp_core.records import DataRequest, Evaluation, LoadedModel, Split

from ._calibrate import check_decoder
from ._measurement import OF_CATEGORY, Measurement
from ._parts import check_settings, file_for, part_for, spec_for
from ._pope import POPE
from ._text import evaluate_text

__all__ = ["METRICS", "evaluate"]

METRICS: Final = ("answer_loss", "accuracy", "exact_match", *POPE)
"""Figures of questions; those after the second by generation."""

_PER_CATEGORY: Final = "per_category"


def evaluate(
    loaded: LoadedModel, data: DataRequest, split: Split, metrics: Sequence[str] | None = None
) -> Evaluation:
    """Figures of one split, `answer_loss` first.

    By default the search split gets what one forward a question gives, the report split answers
    by generation too. Figures that the questions have no use for are left out: accuracy where
    there is nothing to choose among, POPE's where no right answer is yes or no. By name only:
    `per_category`, which stands for `accuracy/CATEGORY` of every category. Plain text gives the
    perplexity of the language model. Without report data nothing is measured.

    Raises:
        UnknownNameError: `metrics` names one that is not measured here.
        UsageError: a setting has no effect on the data.
        DataError: the data are missing or unfit, or have no use for a figure that is asked for.
        NumericalError: the model's output is not a number.
    """
    check_decoder(loaded)
    spec = spec_for(loaded, data, split)
    if spec is None:
        if split == "report":
            return Evaluation([], frozenset())
        raise DataError(
            f"{loaded.source.text} needs data to search on: give --calibration FILE.jsonl with "
            '"image", "question" and "answer" in every line'
        )
    check_settings(loaded, data)
    file = file_for(spec)
    if file is None:
        return evaluate_text(loaded, data, split, spec, metrics)
    for name in metrics or ():
        if name not in METRICS and not _is_of_categories(name):
            raise UnknownNameError("metric", name, (*METRICS, _PER_CATEGORY))
    part = part_for(loaded, data, split, spec, file)
    wanted = list(metrics or (METRICS[:2] if split == "search" else METRICS))
    measure = Measurement(loaded, data, split, part)
    chosen = {name for name in wanted if name == "accuracy" or _is_of_categories(name)}
    if chosen or "answer_loss" in wanted:
        measure.by_likelihood(choose=bool(chosen))
    if {"exact_match", *POPE} & set(wanted):
        measure.by_generation()
    found = measure.metrics
    groups = {_PER_CATEGORY: [name for name in found if name.startswith(OF_CATEGORY)]}
    for name in metrics or ():
        if name not in found and not groups.get(name):
            raise DataError(
                f"{part.dataset} has {_lacking(name)}, so {name} cannot be measured on it"
            )
    names = [name for name in spelt_out(wanted, groups) if name in found]
    observations = measure.observations
    return Evaluation(
        [found[name] for name in names],
        part.examples,
        {name: observations[name] for name in names if name in observations},
    )


def _is_of_categories(name: str) -> bool:
    return name == _PER_CATEGORY or name.startswith(OF_CATEGORY)


def _lacking(name: str) -> str:
    """What the questions have none of."""
    if name.startswith(OF_CATEGORY):
        return f"no answers to choose among in category {name.removeprefix(OF_CATEGORY)!r}"
    if name == _PER_CATEGORY:
        return "no categories with answers to choose among"
    return "no answers to choose among" if name == "accuracy" else "no yes/no answers"
