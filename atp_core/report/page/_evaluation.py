"""What ``atp eval`` measured of a model, and comparisons with others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..._document import Column, Details, Paragraph, Part, Table
from ..._document.results import measured_bullets
from ..._document.wording import arrowed, number, with_error
from ...evaluation.schema import ComparisonRecord, EvaluationRecord
from ._run import figures_of

__all__ = ["comparisons", "evaluation"]


def evaluation(record: EvaluationRecord) -> Iterator[Part]:
    """The metrics of a model and of those it was compared with, and the differences."""
    metrics = figures_of(record)
    others = {other.source: figures_of(other) for other in record.others}
    yield Table(
        "Measured by atp eval",
        [
            Column("metric"),
            Column("this model", numeric=True),
            *(Column(source, numeric=True) for source in others),
        ],
        [
            [
                arrowed(metric, name),
                with_error(metric),
                *(with_error(found.get(name)) for found in others.values()),
            ]
            for name, metric in metrics.items()
        ],
    )
    yield Paragraph("↑: higher is better; ↓: lower is better. ± is one standard error.")
    yield Details("How each figure of atp eval was measured", [measured_bullets(metrics)])
    yield from comparisons(record.comparisons)


def comparisons(records: Sequence[ComparisonRecord]) -> Iterator[Part]:
    """How sure the differences between models are."""
    if not records:
        return
    level = f"{records[0].level:.0%}".replace("%", " %")
    columns = [
        Column("metric"),
        Column("against"),
        Column("verdict"),
        Column("difference", numeric=True),
        Column(f"{level} interval", numeric=True),
    ]
    yield Table(
        "Differences, paired by document or image",
        columns,
        [
            [one.metric, one.reference, one.text, _signed(one.difference), _interval(one)]
            for one in records
        ],
    )
    yield Paragraph(
        "Better or worse is said where the interval of the difference excludes 0. It comes from "
        "measuring both models on the same documents or images and drawing these anew many times, "
        "which is surer than comparing two figures by their ±."
    )


def _interval(one: ComparisonRecord) -> str:
    if one.interval is None:
        return "-"
    return " to ".join(_signed(end) for end in one.interval)


def _signed(figure: float) -> str:
    return f"+{number(figure)}" if figure > 0 else number(figure)
