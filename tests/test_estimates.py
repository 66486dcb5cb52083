"""β from measured errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from atp_core.allocation.budget import beta_max
from atp_core.engine.diagnosis import BlockErrors
from atp_core.engine.estimates import predicted_error, recursion_beta

L, S, DELTA = 12, 0.6, 0.05


def errors(c: float, a: float, scale: Sequence[float]) -> list[BlockErrors]:
    """What would be measured where the recursion holds exactly."""
    found, total = [], 0.0
    for i, fresh in enumerate(scale):
        total = c * total + fresh
        found.append(
            BlockErrors(
                chain="decoder",
                name=str(i),
                total=total,
                fresh=fresh,
                lower=fresh * math.exp(-a * DELTA),
                upper=fresh * math.exp(a * DELTA),
                norm=1.0,
            )
        )
    return found


@pytest.mark.parametrize(("c", "a"), [(1.05, 6.0), (1.2, 5.0), (1.5, 8.0)])
def test_with_equal_figures_it_is_the_closed_form(c: float, a: float) -> None:
    found = recursion_beta(errors(c, a, [2.0] * L), [10] * L, S, DELTA)
    assert found == pytest.approx(math.log(c) / a, abs=beta_max(S, L) / 400)


def test_errors_that_grow_over_depth_by_themselves_take_from_beta() -> None:
    drift, c, a = 0.1, 1.3, 5.0
    rising = errors(c, a, [math.exp(drift * i) for i in range(L)])
    found = recursion_beta(rising, [10] * L, S, DELTA)
    # ln f rises by drift a block, which makes late blocks as much dearer: (ln c − drift)/a.
    assert found == pytest.approx((math.log(c) - drift) / a, abs=beta_max(S, L) / 400)


def test_where_no_error_is_handed_on_uniform_is_best() -> None:
    assert recursion_beta(errors(1.0, 5.0, [1.0] * L), [10] * L, S, DELTA) == 0.0


def test_the_prediction_under_uniform_is_what_was_measured() -> None:
    measured = errors(1.3, 5.0, [1.0 + 0.2 * i for i in range(L)])
    predicted = predicted_error(measured, [10] * L, S, DELTA, 0.0)
    assert predicted == pytest.approx(measured[-1].total)


def test_blocks_without_errors_are_no_trouble() -> None:
    nothing = [BlockErrors("decoder", str(i), 0.0, 0.0, 0.0, 0.0, 0.0) for i in range(L)]
    assert recursion_beta(nothing, [10] * L, S, DELTA) == 0.0
    assert recursion_beta(errors(1.2, 5.0, [1.0]), [10], S, DELTA) == 0.0


def test_a_late_block_that_is_large_is_weighed_by_its_size() -> None:
    sizes = [10] * (L - 1) + [200]
    found = recursion_beta(errors(1.2, 5.0, [2.0] * L), sizes, S, DELTA)
    candidates = [beta_max(S, L) * k / 100 for k in range(101)]
    measured = errors(1.2, 5.0, [2.0] * L)
    least = min(predicted_error(measured, sizes, S, DELTA, beta) for beta in candidates)
    assert predicted_error(measured, sizes, S, DELTA, found) <= least * (1 + 1e-12)
