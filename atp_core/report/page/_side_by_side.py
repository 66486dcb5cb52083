"""Several runs in the same tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..._document import Bullets, Code, Column, Details, Figure, Paragraph, Part, Table, Text
from ..._document.wording import arrowed, duration, measured, percent, with_error
from ...allocation.betas import beta_text
from ...records import Metric
from ._depth import rates_figure_of
from ._run import Run, figures_of

__all__ = ["side_by_side"]

_COLUMNS = {"dense": "dense", "uniform": "uniform", "pruned": "pruned", "eval": "atp eval"}

_Key = tuple[str, str, str, str]


def side_by_side(runs: Sequence[Run]) -> Iterator[Part]:
    """What was done to every model, and every metric with a row a model."""
    yield _overview(runs)
    groups = _groups(runs)
    names = [name for name, *_ in groups]
    for key, found in groups.items():
        yield _metric_table(key[0], found)
    if len(set(names)) < len(names):
        yield Paragraph(
            "A metric with several tables was measured on different data or in different ways: "
            "compare within a table only."
        )
    if groups:
        yield Paragraph("↑: higher is better; ↓: lower is better. ± is one standard error.")
        lines = [f"{key[0]}: {measured(_some(found))}" for key, found in groups.items()]
        yield Details("How each figure was measured", [Bullets(lines)])
    yield from _figures(runs)


def _overview(runs: Sequence[Run]) -> Table:
    columns = [
        Column("run"),
        Column("model"),
        Column("method"),
        Column("allocation"),
        Column("asked", numeric=True),
        Column("reached", numeric=True),
        Column("β", numeric=True),
        Column("time", numeric=True),
    ]
    rows: list[list[Text]] = []
    for run in runs:
        outcome = run.outcome
        rows.append(
            [
                run.name,
                Code(run.model),
                outcome.method or "-",
                run.allocation or "-",
                "-" if run.target is None else percent(run.target),
                "-" if outcome.sparsity_achieved is None else percent(outcome.sparsity_achieved),
                "-" if run.beta is None else beta_text(run.beta),
                "-" if outcome.seconds is None else duration(outcome.seconds),
            ]
        )
    return Table("The runs, and the sparsity of each", columns, rows)


def _groups(runs: Sequence[Run]) -> dict[_Key, dict[str, dict[str, Metric]]]:
    """What may be compared → run → who → metric."""
    groups: dict[_Key, dict[str, dict[str, Metric]]] = {}
    for run in runs:
        known: dict[str, Mapping[str, Metric]] = dict(run.metrics)
        if run.evaluation is not None:
            known["eval"] = figures_of(run.evaluation)
        for who in _COLUMNS:
            for name, metric in known.get(who, {}).items():
                key = (name, metric.dataset, metric.fingerprint, metric.convention)
                groups.setdefault(key, {}).setdefault(run.name, {})[who] = metric
    return groups


def _metric_table(name: str, found: Mapping[str, Mapping[str, Metric]]) -> Table:
    some = _some(found)
    present = [who for who in _COLUMNS if any(who in by_who for by_who in found.values())]
    return Table(
        f"{arrowed(some, name)} on {some.dataset}",
        [Column("run"), *(Column(_COLUMNS[who], numeric=True) for who in present)],
        [[run, *(with_error(by_who.get(who)) for who in present)] for run, by_who in found.items()],
    )


def _some(found: Mapping[str, Mapping[str, Metric]]) -> Metric:
    return next(metric for by_who in found.values() for metric in by_who.values())


def _figures(runs: Sequence[Run]) -> Iterator[Figure]:
    """The rates of every chain that several runs have, block for block."""
    lines: dict[tuple[str, tuple[str, ...]], dict[str, list[float]]] = {}
    for run in runs:
        for chain in run.chains:
            key = (chain.name, tuple(block.name for block in chain.blocks))
            lines.setdefault(key, {})[run.name] = [block.rate for block in chain.blocks]
    for (name, blocks), shown in lines.items():
        if len(shown) > 1:
            caption = f"Chain {name}: rates of {len(blocks)} blocks in {len(shown)} runs."
            yield rates_figure_of(name, shown, caption)
