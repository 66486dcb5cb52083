"""What a run did to a model, and what that cost in quality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..._document import Bullets, Code, Details, Facts, Inline, Paragraph, Part, Strong, Text
from ..._document.results import comparison_table, measured_bullets
from ..._document.wording import HONEST_LINE, duration, percent, size, with_error
from ...allocation.betas import beta_text
from ._evaluation import comparisons
from ._run import Run

__all__ = ["summary"]


def summary(run: Run) -> Iterator[Part]:
    """The main figures of a run, and how to read them."""
    if run.measured:
        yield Paragraph(Strong(_verdict(run)))
    yield Facts([*_facts(run)])
    if run.measured:
        yield comparison_table(run.metrics, "Quality on the report split")
        yield Paragraph(_reading(run))
        yield Details("How each figure was measured", [measured_bullets(run.measured)])
        yield from comparisons(run.outcome.comparisons)
    elif run.pruned:
        yield Paragraph("Nothing was measured on a report split.")
    if run.outcome.notes:
        yield Paragraph("Noted during the run:")
        yield Bullets(list(dict.fromkeys(run.outcome.notes)))
    if run.pruned:
        yield Paragraph(HONEST_LINE)


def _verdict(run: Run) -> str:
    name, metric = next(iter(run.measured.items()))
    others = [
        f"{with_error(found)} {words}"
        for who, words in (("dense", "of the dense model"), ("uniform", "with uniform rates"))
        if (found := run.metrics.get(who, {}).get(name)) is not None
    ]
    against = f", against {' and '.join(others)}" if others else ""
    achieved = run.outcome.sparsity_achieved
    at = f"At {percent(achieved)} sparsity, " if achieved is not None else "After pruning, "
    better = "higher" if metric.higher_is_better else "lower"
    return f"{at}{name} is {with_error(metric)} ({better} is better){against}."


def _facts(run: Run) -> Iterator[tuple[str, Text]]:
    outcome = run.outcome
    handled = f", handled by plugin {outcome.plugin}" if outcome.plugin else ""
    yield "Model", [Code(run.model), handled]
    if run.target is not None:
        yield "Sparsity", _sparsity(run, run.target)
    if outcome.method:
        text: list[Inline] = ["method ", Code(outcome.method)]
        yield "Pruned by", [*text, ", allocation ", Code(run.allocation)]
    if run.beta is not None:
        yield "β", f"{beta_text(run.beta, 5)}{_legal(run)}{_origin(run)}"
    blocks = [block for chain in outcome.chains for block in chain.blocks]
    if blocks and all(b.achieved is not None and b.parameters is not None for b in blocks):
        zeros = sum(round((b.achieved or 0.0) * (b.parameters or 0)) for b in blocks)
        prunable = sum(b.parameters or 0 for b in blocks)
        yield "Weights", size(zeros, prunable, outcome.total_parameters)
    if outcome.bytes_on_disk:
        yield "On disk", f"{outcome.bytes_on_disk / 1e6:,.1f} MB"
    if outcome.seconds is not None:
        memory = outcome.peak_memory_bytes
        peak = f", {memory / 1e9:.2f} GB of memory at most" if memory else ""
        yield "Run", f"{duration(outcome.seconds)}{peak}"


def _sparsity(run: Run, target: float) -> str:
    text = f"{percent(target)} asked for"
    asked = run.recipe.get("sparsity")
    if isinstance(asked, Mapping):
        text += f" ({', '.join(f'{chain} {percent(rate)}' for chain, rate in asked.items())})"
    outcome = run.outcome
    if outcome.sparsity_achieved is not None:
        text += f", {percent(outcome.sparsity_achieved)} reached"
        mean = outcome.sparsity_unweighted
        if mean is not None and abs(mean - outcome.sparsity_achieved) >= 5e-4:
            text += f"; the plain mean over blocks is {percent(mean)}"
    return text


def _legal(run: Run) -> str:
    limit = run.outcome.beta_limit
    return f" (legal: 0 to {limit:.4g})" if limit else ""


def _origin(run: Run) -> str:
    asked = run.recipe.get("beta")
    if run.outcome.beta_auto is not None:
        return ", measured from the growth of the error"
    if asked == "search" and run.trials:
        return f", found in {len(run.trials)} trials"
    return ", given" if asked not in (None, "search", "auto") else ""


def _reading(run: Run) -> str:
    found = [metric for by_name in run.metrics.values() for metric in by_name.values()]
    text = (
        "Measured on data that played no part in pruning or in choosing rates. "
        "↑: higher is better; ↓: lower is better."
    )
    if not any(metric.stderr is not None for metric in found):
        return text
    text += (
        " ± is one standard error: how far a figure would typically be off on other data of the "
        "same kind and size."
    )
    data = {(metric.name, metric.fingerprint) for metric in found}
    same = len(data) == len({metric.name for metric in found})
    if same and len(run.metrics) > 1 and not run.outcome.comparisons:
        text += (
            " All columns were measured on the same data, so chance moves them together, and a "
            "difference between two of them is usually surer than their ± suggest."
        )
    return text
