"""The rates over depth, and the growth of the error that is the reason for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO

from ..._document import Code, Column, Details, Figure, Image, Paragraph, Part, Table
from ..._document.results import rates_table
from ..._document.wording import number, percent
from ...allocation.betas import beta_text
from ...records import Schedule
from ._records import Auto, BlockErrors, ChainResult
from ._run import Run

__all__ = ["growth", "rates", "rates_figure_of"]

# --- rates ---------------------------------------------------------------------------------------


def rates(run: Run) -> Iterator[Part]:
    """A figure a chain, and all rates in a table."""
    text = "How much of each block is cut, in the order of the forward pass."
    if run.allocation == "atp" and run.beta is not None:
        text += (
            " From one block to the next the rate rises by β, so that early blocks, whose errors "
            "all later ones inherit, stay denser; no rate leaves the range from 0 to 100 %."
        )
    yield Paragraph(text)
    if "rates.png" in run.images:
        yield Image("rates.png", "Rates over depth")
    for chain in run.chains:
        yield _figure(run, chain)
    named = ((chain.name, block) for chain in run.chains for block in chain.blocks)
    rows = ((c, b.name, b.rate, b.achieved, b.parameters) for c, b in named)
    table = rates_table(rows, "Rate asked for, share of zeros reached, and size of every block")
    yield Details("All rates as a table", [table])


def _figure(run: Run, chain: ChainResult) -> Figure:
    shown = {}
    level = _uniform(run, chain.name)
    if level is not None:
        shown["uniform"] = [level] * len(chain.blocks)
    label = run.allocation or "rates"
    beta = run.beta
    if beta is not None:
        own = beta.get(chain.name, 0.0) if isinstance(beta, Mapping) else beta
        label += f", β = {own:.4g}"
    if shown and all(math.isclose(block.rate, level or 0.0) for block in chain.blocks):
        del shown["uniform"]  # one line would lie upon the other
    shown[label] = [block.rate for block in chain.blocks]
    weights = sum(block.parameters or 0 for block in chain.blocks)
    size = f" with {weights:,} prunable weights" if weights else ""
    caption = f"Chain {chain.name}: {len(chain.blocks)} blocks{size}."
    return rates_figure_of(chain.name, shown, caption)


def rates_figure_of(chain: str, shown: Mapping[str, Sequence[float]], caption: str) -> Figure:
    """The rates of one chain.

    Args:
        chain: its name.
        shown: label → the rate of every block.
        caption: of the figure.
    """

    def draw() -> str:
        from ..figures import rates_figure

        schedules = {
            label: Schedule({chain: {str(i): rate for i, rate in enumerate(line)}}, 0.0, label)
            for label, line in shown.items()
        }
        return rates_figure(schedules, StringIO()).getvalue()

    return Figure(caption, " ".join(_told(label, line) for label, line in shown.items()), draw)


def _told(label: str, line: Sequence[float]) -> str:
    if not line:
        return f"{label}: no block."
    low, high, first, last = min(line), max(line), line[0], line[-1]
    if math.isclose(low, high):
        return f"{label}: {percent(low)} in every block."
    text = f"{label}: from {percent(first)} in the first block to {percent(last)} in the last"
    if low < min(first, last) or high > max(first, last):
        text += f", between {percent(low)} and {percent(high)}"
    return f"{text}."


def _uniform(run: Run, chain: str) -> float | None:
    """The rate of uniform sparsity, where the recipe tells it."""
    asked = run.recipe.get("sparsity", run.target)
    if isinstance(asked, Mapping):
        asked = asked.get(chain)
    return float(asked) if isinstance(asked, (int, float)) else None


# --- errors --------------------------------------------------------------------------------------


def growth(auto: Auto) -> Iterator[Part]:
    """The error of every block under uniform sparsity, and the β that follows from it."""
    yield Paragraph(
        "How far the output of each block is from the dense model's when all blocks are cut alike: "
        "the squared error relative to the squared output. With dense inputs, it is what cutting "
        "the block itself does; with the inputs it gets, the error of all blocks before it is in "
        "it too. The second growing away from the first is why early blocks should stay denser."
    )
    chains = list(dict.fromkeys(block.chain for block in auto.blocks))
    for chain in chains:
        yield _errors_figure(chain, [block for block in auto.blocks if block.chain == chain])
    if auto.growth:
        yield Paragraph(
            "From block to block the error is multiplied by c, and cutting more multiplies what a "
            "block adds by e to the power of a times the rate. The error of the last block is then "
            "smallest for rates that rise by ln(c)/a a block. Drift is how the logarithm of what a "
            "block adds changes with depth, which this reasoning takes to be 0. "
            f"From all chains together follows β = {beta_text(auto.beta)}, which is never below 0 "
            "and never more than half of what is legal."
        )
        yield Table(
            "Growth of the error",
            [Column("chain"), *(Column(t, numeric=True) for t in ("c", "a", "ln(c)/a", "drift"))],
            [[chain, *_fitted(auto, chain)] for chain in auto.growth],
        )
    table = Table(
        "Squared error of every block, relative to its squared output",
        [
            Column("chain"),
            Column("block"),
            Column("with the inputs it gets", numeric=True),
            Column("with dense inputs", numeric=True),
        ],
        [
            [block.chain, Code(block.name), *(number(error) for error in _relative(block))]
            for block in auto.blocks
        ],
        header=1,
    )
    yield Details("All errors as a table", [table])


def _errors_figure(chain: str, blocks: Sequence[BlockErrors]) -> Figure:
    errors = [_relative(block) for block in blocks]

    def draw() -> str:
        from ..figures import errors_figure

        return errors_figure(errors, StringIO()).getvalue()

    (first, first_own), (last, last_own) = errors[0], errors[-1]
    alt = (
        f"With the inputs it gets: from {number(first)} in the first block to {number(last)} in "
        f"the last. With dense inputs: from {number(first_own)} to {number(last_own)}."
    )
    return Figure(f"Chain {chain}: error at the output of each block.", alt, draw)


def _relative(block: BlockErrors) -> tuple[float, float]:
    if block.norm <= 0:
        return math.nan, math.nan
    return block.total / block.norm, block.fresh / block.norm


def _fitted(auto: Auto, chain: str) -> Iterator[str]:
    c, a = auto.growth[chain], auto.slope.get(chain, math.nan)
    yield number(c)
    yield number(a)
    yield number(math.log(c) / a if c > 0 and a else math.nan)
    yield number(auto.drift.get(chain, math.nan))
