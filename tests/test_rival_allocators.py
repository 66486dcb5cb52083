"""Rival allocations against numbers worked out by other means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from atp_core.allocation import AllocationRequest
from atp_core.allocation._redundancy import cheapest_rates, similarity
from atp_core.allocation.alphapruning import AlphaPruning, _block_alpha, _hill, _middle
from atp_core.allocation.als import ALS
from atp_core.allocation.atp import ATP
from atp_core.allocation.budget import solve_scale
from atp_core.allocation.dlp import DLP
from atp_core.allocation.dsa import DSA
from atp_core.allocation.ecoflap import ECoFLaP
from atp_core.allocation.er import ER, ERK, ERPlus
from atp_core.allocation.global_magnitude import Global
from atp_core.allocation.lamp import LAMP
from atp_core.allocation.losa import LoSA
from atp_core.allocation.owl import OWL
from atp_core.allocation.power import Power
from atp_core.errors import NumericalError, UsageError
from atp_core.records import Block, Chain, PrunableWeight


class Shown:
    """Norms, inputs and a loss that are given."""

    def __init__(self, chain: Chain | None = None, loss: Any = None) -> None:
        self.chain, self._loss = chain, loss
        self.rows: list[torch.Tensor] = []

    def norms(self, weight: PrunableWeight) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(weight.name))
        return torch.rand(weight.shape[1], generator=generator) + 0.1

    def inputs(self, chain: Chain) -> Sequence[torch.Tensor]:
        return self.rows

    def loss(self) -> float:
        return float(self._loss())


def chain_of(shapes: Sequence[Sequence[tuple[int, ...]]], seed: int = 0) -> Chain:
    """A chain of blocks with weights of these shapes, heavier-tailed from block to block."""
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for i, own in enumerate(shapes):
        weights = []
        for j, shape in enumerate(own):
            module: nn.Module
            if len(shape) == 4:
                module = nn.Conv2d(shape[1], shape[0], (shape[2], shape[3]), bias=False)
            else:
                module = nn.Linear(shape[1], shape[0], bias=False)
            with torch.no_grad():
                values = torch.randn(shape, generator=generator)
                module.weight.copy_(values * values.abs() ** (0.3 * i) * (1 + 0.2 * i))
            weights.append(PrunableWeight(f"{i}.{j}.weight", module))
        blocks.append(Block(str(i), nn.Identity(), weights))
    return Chain("main", blocks)


def rates(
    allocator: Any, chain: Chain, target: float, shown: Shown | None = None, **options: Any
) -> list[float]:
    request = AllocationRequest([chain], {"main": target}, options, shown or Shown())
    found: list[float] = allocator.allocate(request).of(chain)
    return found


UNEQUAL = chain_of([[(24, 16), (16, 24)], [(24, 16), (48, 16)], [(8, 16)], [(16, 16), (20, 32)]])
SIZES = [block.parameters for block in UNEQUAL.blocks]


def wanda(block: Block) -> torch.Tensor:
    shown = Shown()
    parts = [(w.matrix().double().abs() * shown.norms(w).double()).flatten() for w in block.weights]
    return torch.cat(parts).detach()


def shifted(offsets: Sequence[float], target: float) -> list[float]:
    """Offsets around S by parameters, where no rate meets 0 or 1."""
    mean = sum(n * o for n, o in zip(SIZES, offsets, strict=True)) / sum(SIZES)
    return [target + offset - mean for offset in offsets]


def stretched(values: Sequence[float]) -> list[float]:
    return [(v - min(values)) / (max(values) - min(values)) for v in values]


def test_owl() -> None:
    shares = [float((a > 2 * a.mean()).double().mean()) for a in map(wanda, UNEQUAL.blocks)]
    expected = shifted([-0.2 * d for d in stretched(shares)], 0.6)
    assert rates(OWL(), UNEQUAL, 0.6, M=2, **{"lambda": 0.1}) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("center", ["mean", "median"])
def test_dlp(center: str) -> None:
    middles = [float(getattr(a, center)()) for a in map(wanda, UNEQUAL.blocks)]
    importance = [1 - m / sum(middles) for m in middles]
    expected = shifted([-0.3 * d for d in stretched(importance)], 0.6)
    assert rates(DLP(), UNEQUAL, 0.6, center=center) == pytest.approx(expected, abs=1e-6)


def test_dsa() -> None:
    values = []
    for scores in map(wanda, UNEQUAL.blocks):
        inner = math.atan(float(scores.log().var()))
        values.append(math.asin(inner) if inner <= 1 else 0.0)
    expected = shifted([-0.16 * (1 - v) for v in stretched(values)], 0.6)
    assert 0.0 in values, "one block is outside the arcsine's domain"
    assert rates(DSA(), UNEQUAL, 0.6) == pytest.approx(expected, abs=1e-6)


# --- spectra -------------------------------------------------------------------------------------


def test_the_exponent_of_a_planted_power_law() -> None:
    n, alpha = 20000, 2.6
    places = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    spectrum = (1 - places) ** (-1 / (alpha - 1))  # quantiles of a Pareto law, ascending
    found = _hill(spectrum, 0)
    assert found is not None and found == pytest.approx(alpha, rel=1e-2)


@pytest.mark.parametrize("estimator", ["mid", "peak"])
def test_alphapruning(estimator: str) -> None:
    expected = []
    for block in UNEQUAL.blocks:
        alphas = []
        for weight in block.weights:
            squares = sorted(float(s) ** 2 for s in torch.linalg.svdvals(weight.matrix().double()))
            alphas.append(plain_alpha(squares, estimator))
        expected.append(sum(alphas) / len(alphas))
    ratios = [0.4 * r + 0.8 for r in stretched(expected)]
    scale = 0.5 * sum(SIZES) / sum(n * r for n, r in zip(SIZES, ratios, strict=True))
    found = rates(AlphaPruning(), UNEQUAL, 0.5, epsilon=0.2, estimator=estimator)
    assert found == pytest.approx([scale * r for r in ratios], rel=1e-3)


@pytest.mark.parametrize("estimator", ["mid", "peak"])
def test_a_block_without_a_power_law_takes_the_mean_of_the_others(estimator: str) -> None:
    """An orthogonal weight's eigenvalues are equal but for rounding; a zero weight has none."""
    generator = torch.Generator().manual_seed(2)
    odd = [torch.linalg.qr(torch.randn(32, 32, generator=generator))[0], torch.zeros(32, 32)]
    for values in odd:
        chain = chain_of([[(32, 32)]] * 3)
        chain.blocks[1].weights[0].matrix().copy_(values)
        found = rates(AlphaPruning(), chain, 0.5, epsilon=0.2, estimator=estimator)
        assert found[1] == pytest.approx(0.5)
        assert sorted(found) == pytest.approx([0.4, 0.5, 0.6])


def test_what_rounding_leaves_of_the_rank_is_not_in_the_tail() -> None:
    generator = torch.Generator().manual_seed(3)
    factors = torch.randn(192, 6, generator=generator), torch.randn(6, 192, generator=generator)
    chain = chain_of([[(192, 192)], [(192, 192)]])
    chain.blocks[0].weights[0].matrix().copy_(factors[0] @ factors[1])
    low_rank = chain.blocks[0].weights[0].matrix().double()
    squares = sorted(float(s) ** 2 for s in torch.linalg.svdvals(low_rank))
    own = plain_alpha(squares[-6:], "mid")
    assert _block_alpha(chain.blocks[0], _middle) == pytest.approx(own, rel=1e-3)


def test_a_weight_that_is_not_finite_is_named() -> None:
    chain = chain_of([[(6, 5)], [(6, 5)]])
    weight = chain.blocks[1].weights[0]
    with torch.no_grad():
        weight.matrix()[2, 3] = math.nan
    with pytest.raises(NumericalError, match=weight.name):
        rates(AlphaPruning(), chain, 0.5)


def plain_alpha(values: list[float], estimator: str) -> float:
    def at(start: int) -> tuple[float, float]:
        tail = values[start:]
        alpha = 1 + len(tail) / sum(math.log(v / tail[0]) for v in tail)
        distance = max(
            abs(1 - (v / tail[0]) ** (1 - alpha) - k / len(tail)) for k, v in enumerate(tail)
        )
        return distance, alpha

    if estimator == "mid":
        return at(len(values) // 2)[1]
    logs = [math.log10(v) for v in values]
    width = (logs[-1] - logs[0]) / 100
    counts = [0] * 100
    for one in logs:
        counts[min(int((one - logs[0]) / width), 99)] += 1
    peak = 10 ** (logs[0] + (counts.index(max(counts)) + 0.5) * width)
    near = [i for i, v in enumerate(values[:-1]) if math.log10(0.95 * peak) < v <= 1.5 * peak]
    return min((at(i) for i in near), default=at(len(values) // 2))[1]


# --- by weight -----------------------------------------------------------------------------------


def implied_by(scores: Sequence[torch.Tensor], owners: Sequence[int], target: float) -> list[float]:
    """Rates of blocks when the lowest scores of all are cut, by a full sort."""
    every = torch.cat([s.flatten() for s in scores])
    threshold = every.sort().values[round(target * every.numel())]
    cut = [0] * len(SIZES)
    for own, owner in zip(scores, owners, strict=True):
        cut[owner] += int((own < threshold).sum())
    return [c / n for c, n in zip(cut, SIZES, strict=True)]


WEIGHTS = [(i, w) for i, b in enumerate(UNEQUAL.blocks) for w in b.weights]


@pytest.mark.parametrize("score", ["magnitude", "wanda"])
def test_global(score: str) -> None:
    shown = Shown()
    scores = [
        w.matrix().detach().abs() * (shown.norms(w) if score == "wanda" else 1) for _, w in WEIGHTS
    ]
    expected = implied_by(scores, [i for i, _ in WEIGHTS], 0.6)
    assert rates(Global(), UNEQUAL, 0.6, score=score) == pytest.approx(expected, abs=2e-3)


def test_lamp() -> None:
    scores = []
    for _, weight in WEIGHTS:
        squares = sorted(float(v) ** 2 for v in weight.matrix().detach().flatten())
        rest, found = sum(squares), []
        for square in squares:
            found.append(square / rest)
            rest -= square
        scores.append(torch.tensor(found, dtype=torch.float64))
    expected = implied_by(scores, [i for i, _ in WEIGHTS], 0.6)
    # Within one weight of the smallest block: those at the threshold are cut in proportion.
    assert rates(LAMP(), UNEQUAL, 0.6) == pytest.approx(expected, abs=1 / min(SIZES))


def test_er_by_hand() -> None:
    chain = chain_of([[(10, 10)], [(10, 30)], [(40, 40)]])
    # (n + m)/(n·m): 0.2, 0.1333, 0.05; parameters 100, 300, 1600; kept at S = 0.8: 400 of 2000,
    # so 400 = ε·(20 + 40 + 80) and ε = 20/7.
    assert rates(ER(), chain, 0.8) == pytest.approx([1 - 4 / 7, 1 - 8 / 21, 1 - 1 / 7])
    # At S = 0.5 the first two would be above 1: dense, and the third keeps 600 of 1600.
    assert rates(ER(), chain, 0.5) == pytest.approx([0.0, 0.0, 0.625])


def test_erk_counts_the_kernel() -> None:
    chain = chain_of([[(8, 4, 3, 3)], [(8, 36)]])
    # Equal sizes, 288 each: (8 + 4 + 3 + 3)/288 and (8 + 36)/288, kept in the ratio 18 : 44.
    assert rates(ERK(), chain, 0.7) == pytest.approx([1 - 0.6 * 18 / 62, 1 - 0.6 * 44 / 62])
    assert rates(ER(), chain, 0.7) == pytest.approx([0.7, 0.7])


def test_er_plus_keeps_the_last_weight() -> None:
    chain = chain_of([[(10, 10)], [(10, 10)], [(10, 10)]])
    assert rates(ERPlus(), chain, 0.5) == pytest.approx([0.75, 0.75, 0.0])
    assert rates(ERPlus(), chain, 0.5, last_density=0.6) == pytest.approx([0.55, 0.55, 0.4])
    assert rates(ERPlus(), chain, 0.8) == pytest.approx([1.0, 1.0, 0.4]), "all that is kept"


# --- inputs of blocks ----------------------------------------------------------------------------


def rows(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(40, 6, generator=generator)
    noise = [torch.randn(40, 6, generator=generator) for _ in UNEQUAL.blocks]
    return [first * (1.5 - 0.3 * i) + i * 0.5 * noise[i] + 0.3 for i in range(len(noise))]


def test_similarity_is_that_of_the_definition() -> None:
    inputs = rows()
    for centred in (False, True):
        found = similarity(inputs, centred=centred)
        xs = [x.double() - (x.double().mean(0) if centred else 0) for x in inputs]
        for i, x in enumerate(xs):
            for j, y in enumerate(xs):
                expected = (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
                assert found[i][j] == pytest.approx(float(expected), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 2.0), st.integers(1, 50)), min_size=2, max_size=7),
    st.floats(0.05, 0.95),
    st.floats(0.01, 0.4),
)
def test_the_knapsack_is_the_linear_program(
    blocks: list[tuple[float, int]], target: float, reach: float
) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed")
    costs, sizes = [c for c, _ in blocks], [n for _, n in blocks]
    found = cheapest_rates(costs, sizes, target, reach)
    solved = optimize.linprog(
        [c * n for c, n in blocks],
        A_eq=[sizes],
        b_eq=[target * sum(sizes)],
        bounds=[(max(target - reach, 0), min(target + reach, 1))] * len(blocks),
    )
    assert sum(n * s for n, s in zip(sizes, found, strict=True)) == pytest.approx(
        target * sum(sizes)
    )
    cost = sum(c * n * s for (c, n), s in zip(blocks, found, strict=True))
    assert cost == pytest.approx(solved.fun, rel=1e-6)


def test_als_and_losa_by_hand() -> None:
    """Block 0 is unlike the others, which are equal: it stays denser."""
    generator = torch.Generator().manual_seed(1)
    odd, same = torch.randn(40, 6, generator=generator), torch.randn(40, 6, generator=generator)
    shown = Shown()
    shown.rows = [odd, same, same, same]
    chain = chain_of([[(8, 8)]] * 4)
    assert rates(LoSA(), chain, 0.5, shown) == pytest.approx([0.49] + [0.5 + 0.01 / 3] * 3)
    als = rates(ALS(), chain, 0.5, shown, spread=0.1)
    assert als[0] == pytest.approx(0.4)
    assert als[1:] == pytest.approx([0.5 + 0.1 / 3] * 3)


# --- the loss ------------------------------------------------------------------------------------


def test_ecoflap_is_the_slope_of_the_loss() -> None:
    chain = chain_of([[(6, 6), (6, 6)], [(6, 6)], [(12, 6)]])
    before = [w.matrix().clone() for b in chain.blocks for w in b.weights]
    slopes = [3.0, 0.0, 1.0]

    def loss() -> float:
        return sum(
            slope * float(sum(w.matrix().double().sum() for w in block.weights))
            for slope, block in zip(slopes, chain.blocks, strict=True)
        )

    found = rates(ECoFLaP(), chain, 0.5, Shown(loss=loss), margin=0.2, seed=3)
    generator = torch.Generator().manual_seed(3)
    scores = []
    for slope, block in zip(slopes, chain.blocks, strict=True):
        noise = [torch.randn(w.shape, generator=generator) for w in block.weights]
        scores.append(abs(slope * float(sum(z.double().sum() for z in noise))))
    sizes = [72, 36, 72]
    kept = [0.3 * n + 0.2 * 180 * s / sum(scores) for n, s in zip(sizes, scores, strict=True)]
    assert all(k < n for k, n in zip(kept, sizes, strict=True))
    assert found == pytest.approx([1 - k / n for k, n in zip(kept, sizes, strict=True)], abs=1e-4)
    after = [w.matrix() for b in chain.blocks for w in b.weights]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_ecoflap_puts_weights_back_and_tells_where_a_loss_is_no_number() -> None:
    chain = chain_of([[(6, 6)], [(6, 6)]])
    before = [w.matrix().clone() for b in chain.blocks for w in b.weights]
    with pytest.raises(NumericalError, match=r"0\.0\.weight"):
        rates(ECoFLaP(), chain, 0.5, Shown(loss=lambda: math.nan))
    with pytest.raises(RuntimeError):
        rates(ECoFLaP(), chain, 0.5, Shown(loss=lambda: (_ for _ in ()).throw(RuntimeError())))
    after = [w.matrix() for b in chain.blocks for w in b.weights]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_ecoflap_across_chains_meets_the_whole_budget() -> None:
    vision, text = chain_of([[(8, 8)]] * 3), chain_of([[(8, 8)]] * 2, seed=1)
    text = Chain("text", text.blocks)
    shown = Shown(loss=lambda: 5 * sum(float(b.weights[0].matrix().sum()) for b in text.blocks))
    request = AllocationRequest([vision, text], {"main": 0.5, "text": 0.5}, {"across": True}, shown)
    schedule = ECoFLaP().allocate(request)
    found = [*schedule.of(vision), *schedule.of(text)]
    assert sum(found) / 5 == pytest.approx(0.5)
    assert sum(schedule.of(text)) / 2 < 0.5 < sum(schedule.of(vision)) / 3


# --- the family ----------------------------------------------------------------------------------


def test_power_one_is_atp() -> None:
    chain = chain_of([[(8, 8)], [(8, 24)], [(8, 8)], [(40, 8)]])
    assert rates(Power(), chain, 0.6, beta=0.1, exponent=1.0) == rates(ATP(), chain, 0.6, beta=0.1)
    equal = chain_of([[(8, 8)]] * 3)
    low, middle, high = rates(Power(), equal, 0.5, beta=0.2, exponent=2.0)
    assert (high - low, middle - low) == (pytest.approx(0.4), pytest.approx(0.1))
    with pytest.raises(UsageError, match="outside"):
        rates(Power(), equal, 0.5, beta=0.6)


# --- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.0, 0.05, 0.95, 1.0])
@pytest.mark.parametrize(
    ("allocator", "options"),
    [
        (OWL, {}),
        (DLP, {"center": "median"}),
        (DSA, {}),
        (AlphaPruning, {"epsilon": 1.0}),
        (ERK, {}),
        (ERPlus, {"last_density": 0.0}),
        (LAMP, {}),
        (Global, {"score": "wanda"}),
    ],
)
def test_degenerate_blocks_meet_the_budget(
    allocator: Any, options: dict[str, Any], target: float
) -> None:
    """One block zero, one constant, one with dead rows, one a kernel; in bfloat16."""
    chain = chain_of([[(8, 8)], [(16, 8), (4, 4)], [(16, 16)], [(8, 4, 3, 3)]])
    with torch.no_grad():
        chain.blocks[0].weights[0].matrix().zero_()
        for weight in chain.blocks[1].weights:
            weight.matrix().fill_(0.1)
        chain.blocks[2].weights[0].matrix()[3:] = 0
    for weight in (weight for block in chain.blocks for weight in block.weights):
        weight.module.bfloat16()
    found = rates(allocator(), chain, target, **options)
    sizes = [block.parameters for block in chain.blocks]
    cut = sum(n * s for n, s in zip(sizes, found, strict=True))
    assert cut == pytest.approx(target * sum(sizes), abs=1e-9)
    assert all(0.0 <= rate <= 1.0 for rate in found)


def test_a_scale_that_would_pass_one_is_spread() -> None:
    assert solve_scale([1, 1, 2], [4.0, 1.0, 1.0], 0.5) == pytest.approx([1.0, 1 / 3, 1 / 3])
    assert solve_scale([1, 1], [1.0, 0.0], 0.75) == pytest.approx([1.0, 0.5])
    assert solve_scale([2, 3], [0.0, 0.0], 0.3) == pytest.approx([0.3, 0.3])


@pytest.mark.parametrize(
    ("allocator", "options"),
    [
        (OWL, {"lambda": 2}),
        (OWL, {"m": 5}),
        (DLP, {"center": "mode"}),
        (DSA, {"lambda": "much"}),
        (AlphaPruning, {"epsilon": -1}),
        (Global, {"score": "snip"}),
        (LAMP, {"M": 1}),
        (ER, {"M": 1}),
        (ERPlus, {"last_density": 2}),
        (ALS, {"spread": True}),
        (LoSA, {"delta": "x"}),
        (ECoFLaP, {"per": "tensor"}),
        (ECoFLaP, {"seed": 1.5}),
        (Power, {"beta": 0.1, "exponent": 0}),
        (Power, {"beta": 0.1, "exponents": 2}),
    ],
)
def test_wrong_options(allocator: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="option"):
        rates(allocator(), UNEQUAL, 0.5, **options)


def test_without_a_model_it_says_what_it_needs() -> None:
    with pytest.raises(UsageError, match="looks at the dense model"):
        OWL().allocate(AllocationRequest([UNEQUAL], {"main": 0.5}))
