"""The parts that every text about a pruned model has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ..allocation.betas import beta_text
from ..records import Beta, Metric
from .parts import Bullets, Code, Column, Inline, Link, Paragraph, Table, Text
from .wording import arrowed, measured, with_error

__all__ = ["comparison_table", "lead", "measured_bullets", "rates_table"]

_COLUMNS: Final = {"dense": "dense", "uniform": "uniform", "pruned": "this model"}


def lead(
    name: str, method: str, allocation: str, beta: Beta | None, *, searched: bool
) -> Paragraph:
    """What was done to a model.

    Args:
        name: of the dense model.
        method: name of the pruning method.
        allocation: name of the allocation.
        beta: its common difference, where it has one.
        searched: whether β was searched.
    """
    text: list[Inline] = [
        Code(name),
        " pruned without retraining by ",
        Link("atp-prune", "https://pypi.org/project/atp-prune/"),
        ": method ",
        Code(method),
        ", allocation ",
        Code(allocation),
    ]
    text.append(f" with β = {beta_text(beta)}." if beta is not None else ".")
    if allocation == "atp" and beta:
        text += [
            " Sparsity rises from block to block in an arithmetic progression, because errors made "
            "in early blocks grow through all that follow (",
            Link("arXiv 2502.14770", "https://arxiv.org/abs/2502.14770"),
            ").",
        ]
    elif beta == 0.0 and searched:
        text.append(" β = 0 is uniform sparsity: the search found nothing better for this model.")
    return Paragraph(text)


def comparison_table(metrics: Mapping[str, Mapping[str, Metric]], caption: str = "") -> Table:
    """Dense, uniform and pruned side by side, a metric a row.

    Args:
        metrics: "dense", "uniform", "pruned" → name → metric; what is not there has no column.
        caption: of the table.
    """
    present = [who for who in _COLUMNS if metrics.get(who)]
    return Table(
        caption,
        [Column("metric"), *(Column(_COLUMNS[who], numeric=True) for who in present)],
        [
            [arrowed(metric, name), *(with_error(metrics[who].get(name)) for who in present)]
            for name, metric in metrics["pruned"].items()
        ],
    )


def measured_bullets(metrics: Mapping[str, Metric]) -> Bullets:
    """How each metric was measured."""
    return Bullets([f"{name}: {measured(metric)}" for name, metric in metrics.items()])


def rates_table(
    rows: Iterable[tuple[str, str, float, float | None, int | None]], caption: str = ""
) -> Table:
    """The rates of blocks.

    Args:
        rows: chain, block, the rate asked for, the share of zeros and the number of weights; the
            last two are None where nothing was pruned yet.
        caption: of the table.
    """
    rows = list(rows)
    columns = [Column("chain"), Column("block"), Column("rate", numeric=True)]
    pruned = any(zeros is not None for *_, zeros, _ in rows)
    if pruned:
        columns += [Column("zeros", numeric=True), Column("prunable weights", numeric=True)]
    cells: list[list[Text]] = []
    for chain, block, rate, zeros, weights in rows:
        cells.append([chain, Code(block), f"{rate:.4f}"])
        if pruned:
            cells[-1].append("-" if zeros is None else f"{zeros:.4f}")
            cells[-1].append("-" if weights is None else f"{weights:,}")
    return Table(caption, columns, cells, header=1)
