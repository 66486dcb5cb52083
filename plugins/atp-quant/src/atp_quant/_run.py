"""The way of a quantization: bits, a search over β, the blocks, and what is measured."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from functools import reduce

from atp_core.errors import ModelError, UsageError
from atp_core.records import Block, Chain, Metric, Split
from atp_core.results import peak_memory_bytes
from atp_core.session import Session
from atp_core.trials import Trial, best
from atp_core.trials.beta import Adaptive, search_beta

from ._bits import beta_limit, bits_from, progression, round_bits
from ._blocks import Plan, Quantized, quantize_blocks
from ._request import Request, read_json
from ._result import BlockBits

__all__ = ["Quantizing", "check_groups"]

Bits = dict[tuple[str, str], int]

_ROUNDS = 2
"""Refining trials of a search: widths are whole numbers, so that a closer β changes nothing."""


class Quantizing:
    """Quantizes the model of a session, from its dense weights each time.

    Args:
        session: the model and its data.
        request: what to do.
    """

    def __init__(self, session: Session, request: Request) -> None:
        self._session = session
        self._request = request
        self._chains = session.chains
        self._rates = request.rates(self._chains)
        self._known: dict[str, Trial] = {}
        self._higher = False
        self._at: Bits | None = None
        self._done = Quantized()

    # --- bits --------------------------------------------------------------------------------

    def bits(self, beta: float) -> Bits:
        """The width of every block; each chain meets the budget."""
        budget, widths = self._request.bits, self._request.widths
        assert budget is not None
        found: Bits = {}
        for chain in self._chains:
            sizes = [block.parameters for block in chain.blocks]
            own = beta if len(chain.blocks) > 1 else 0.0
            real = progression(sizes, budget, own, widths)
            for block, width in zip(chain.blocks, round_bits(sizes, real, widths), strict=True):
                found[chain.name, block.name] = width
        return found

    def file_bits(self) -> Bits:
        """The widths that a file gives."""
        request = self._request
        data = read_json(request.allocation, "uniform, atp, or a file of bits such as a quant.json")
        names = {chain.name: [block.name for block in chain.blocks] for chain in self._chains}
        widths = bits_from(data, names, request.widths)
        at = [(chain.name, block.name) for chain, block in self._walk()]
        return dict(zip(at, widths, strict=True))

    def limit(self) -> float:
        """The largest β that is legal for every chain; 0 where no chain has two blocks."""
        budget = self._request.bits
        assert budget is not None
        return min(
            (
                beta_limit(budget, len(chain.blocks), self._request.widths)
                for chain in self._chains
                if len(chain.blocks) > 1
            ),
            default=0.0,
        )

    # --- search ------------------------------------------------------------------------------

    def search(self) -> tuple[float, list[Trial]]:
        """The β that is best on the search split, uniform bits among those tried, and the trials.

        β whose widths are the same are tried once.
        """
        strategy = Adaptive(self.limit(), rounds=_ROUNDS)
        with self._session.progress.task("searching β", strategy.most) as advance:

            def judge(betas: Sequence[float]) -> list[Trial]:
                made = [self._try(beta) for beta in betas]
                for trial in made:
                    advance(f"β = {trial.beta:.3g}: {trial.objective:.4g}")
                return made

            trials = search_beta(
                judge,
                strategy,
                higher_is_better=lambda: self._higher,
            )
        found = best(trials, self._higher).beta
        assert isinstance(found, float)
        return found, trials

    def _try(self, beta: float) -> Trial:
        started = time.perf_counter()
        bits = self.bits(beta)
        text = json.dumps([[*at, width] for at, width in bits.items()])
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        known = self._known.get(digest)
        if known is None:
            self._session.see_dense("search")
            self.quantize(bits, f"trial β = {beta:.3g}")
            name = self._session.recipe.objective
            found = self._session.evaluate("search", [name] if name else None).metric(name)
            self._higher = found.higher_is_better
            samples = self._session.calibration.samples if self._request.method == "gptq" else 0
            known = self._known[digest] = Trial(
                beta=beta,
                objective=found.value,
                seconds=time.perf_counter() - started,
                stage="search",
                samples=samples,
                schedule=digest,
                peak_memory_bytes=peak_memory_bytes(),
            )
            self._session.progress.note(f"β = {beta:.3g}: {found.name} {found.value:.4g}")
        return Trial(**{**known.to_dict(), "beta": beta})

    # --- quantizing and measuring ------------------------------------------------------------

    def quantize(self, bits: Bits, title: str = "quantizing") -> Quantized:
        """Quantize the dense model to these widths, unless it stands so already."""
        session, request = self._session, self._request
        snapshot = session.snapshot  # taken while the weights are still those that were loaded
        if self._at == bits and snapshot.stale:
            return self._done
        session.restore()
        self._at = None
        snapshot.stale = True
        session.loaded.pruned = True
        plan = Plan(
            bits,
            self._rates,
            request.method,
            None if request.group_size == -1 else request.group_size,
            request.symmetric,
            request.clip,
        )
        self._done = quantize_blocks(
            self._chains,
            plan,
            lambda: session.calibration,
            session.device,
            session.progress,
            title,
        )
        self._at = bits
        return self._done

    def measured(self, bits: Bits | None) -> dict[str, Metric]:
        """Metrics on the report split: of the dense model, or quantized to these widths."""
        if bits is None:
            self._session.restore()
            self._at = None
        else:
            self._session.see_dense("report")
            self.quantize(bits)
        return self._metrics("report")

    def _metrics(self, split: Split) -> dict[str, Metric]:
        return {metric.name: metric for metric in self._session.evaluate(split).metrics}

    def blocks(self, bits: Bits) -> list[BlockBits]:
        """What stands in every block now."""
        return [
            BlockBits(
                chain.name,
                block.name,
                bits[chain.name, block.name],
                block.parameters,
                sum(int((weight.matrix() == 0).sum()) for weight in block.weights),
            )
            for chain, block in self._walk()
        ]

    def _walk(self) -> list[tuple[Chain, Block]]:
        return [(chain, block) for chain in self._chains for block in chain.blocks]


def check_groups(chains: Sequence[Chain], group_size: int) -> None:
    """Refuse a group size that does not divide every row.

    Raises:
        UsageError: names a weight, and the sizes that would do.
        ModelError: a weight is on several blocks.
    """
    seen: set[str] = set()
    weights = [weight for chain in chains for block in chain.blocks for weight in block.weights]
    for weight in weights:
        if weight.name in seen:
            raise ModelError(f"{weight.name} was located twice")
        seen.add(weight.name)
    if group_size == -1:
        return
    widths = [weight.shape[1] for weight in weights]
    for weight, width in zip(weights, widths, strict=True):
        if width % group_size:
            common = reduce(math.gcd, widths)
            fitting = [size for size in (256, 128, 64, 32, 16, 8, 4, 2) if common % size == 0]
            remedy = f"--group-size {fitting[0]} or " if fitting and fitting[0] >= 16 else ""
            raise UsageError(
                f"{weight.name} has {width} weights a row, which groups of {group_size} do not "
                f"divide; take {remedy}--group-size -1 (one scale a row)"
            )
