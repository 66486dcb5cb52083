"""From runs to a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..._document import Code, Document, Inline, Link, Paragraph, Part, Section
from ..._document.results import lead
from ..._document.wording import percent
from ...allocation.betas import beta_text
from ._depth import growth, rates
from ._evaluation import evaluation
from ._origin import provenance, repeat
from ._run import Run
from ._search import search
from ._side_by_side import side_by_side
from ._summary import summary

__all__ = ["compose"]


def compose(runs: Sequence[Run], title: str | None = None) -> Document:
    """The text about one run or several.

    Args:
        runs: at least one.
        title: of the text; None makes one.
    """
    if len(runs) == 1:
        return Document(title or _title(runs[0]), [_lead(runs[0]), *_sections(runs[0])])
    models = list(dict.fromkeys(run.model for run in runs))
    own = f"{models[0]}: {len(runs)} runs" if len(models) == 1 else f"{len(models)} models"
    return Document(
        title or f"{own} side by side",
        [
            Section("Side by side", [*side_by_side(runs)]),
            *(Section(f"{run.name}: {_title(run)}", [_lead(run), *_sections(run)]) for run in runs),
        ],
    )


def _title(run: Run) -> str:
    achieved = run.outcome.sparsity_achieved
    if achieved is not None:
        return f"{run.model}, {percent(achieved)} of its prunable weights cut"
    if run.target is not None:
        return f"{run.model}, rates for {percent(run.target)} sparsity"
    return f"{run.model}, measured"


def _lead(run: Run) -> Paragraph:
    allocation, beta = run.allocation, run.beta
    if run.pruned:
        searched = run.recipe.get("beta") == "search"
        return lead(run.model, run.outcome.method, allocation, beta, searched=searched)
    home = Link("atp-prune", "https://pypi.org/project/atp-prune/")
    text: list[Inline]
    if run.schedule is None:
        text = ["Figures of ", Code(run.model), ", measured with ", home, "."]
    else:
        text = ["Rates for ", Code(run.model), " by ", home, ": allocation ", Code(allocation)]
        text += [f", β = {beta_text(beta)}" if beta is not None else ""]
        text += [", for the method ", Code(run.outcome.method)] if run.outcome.method else []
        text += [". No model was pruned."]
    return Paragraph(text)


def _sections(run: Run) -> Iterator[Section]:
    for title, parts in (
        ("Results", summary(run) if run.chains or run.measured else ()),
        ("Evaluation", evaluation(run.evaluation) if run.evaluation is not None else ()),
        ("Rates over depth", rates(run) if run.chains else ()),
        ("Choice of β", search(run) if run.trials else ()),
        ("Error over depth", growth(run.outcome.beta_auto) if run.outcome.beta_auto else ()),
        ("Provenance", provenance(run)),
        ("Repeat it", repeat(run)),
    ):
        found: list[Part] = [*parts]
        if found:
            yield Section(title, found)
