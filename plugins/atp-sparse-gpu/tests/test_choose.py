"""Plans from given times: no clock is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from atp_sparse_gpu._choose import BUCKETS, Route, fixed_plan, interleaved, measured_plan


class Times:
    """Times by route and number of tokens; remembers what was asked."""

    def __init__(self, **by_route: Mapping[int, float]) -> None:
        self.by_route = by_route
        self.asked: dict[int, list[Route]] = {}

    def __call__(self, tokens: int, routes: Sequence[Route]) -> Mapping[Route, float]:
        self.asked[tokens] = list(routes)
        return {route: self.of(route, tokens) for route in routes}

    def of(self, route: str, tokens: int) -> float:
        given = self.by_route[route.replace("2:4", "semi")]
        return next(seconds for most, seconds in given.items() if tokens <= most)


def test_each_range_takes_its_quickest() -> None:
    times = Times(
        dense={10**9: 10.0}, bitmask={4: 5.0, 10**9: 20.0}, semi={4: 9.0, 10**9: 6.0}
    )
    plan = measured_plan(["2:4", "bitmask", "dense"], times)
    assert plan is not None
    assert [plan.route(tokens) for tokens in (1, 4, 5, 16, 17, 5000)] == [
        "bitmask", "bitmask", "2:4", "2:4", "2:4", "2:4",
    ]  # fmt: skip
    assert str(plan) == "bitmask to 4, 2:4 above"
    assert "2.00× at 1" in plan.why and "1.67× at 512" in plan.why


def test_never_slower_than_dense_where_dense_is_kept() -> None:
    times = Times(dense={10**9: 10.0}, bitmask={1: 5.0, 2: 11.0, 10**9: 9.9})
    plan = measured_plan(["bitmask", "dense"], times)
    assert plan is not None and str(plan) == "bitmask to 1, dense above"
    assert plan.routes == {"bitmask", "dense"}


def test_a_layer_that_wins_nowhere_stays() -> None:
    times = Times(dense={10**9: 10.0}, bitmask={10**9: 9.9}, unpack={10**9: 12.0})
    assert measured_plan(["bitmask", "dense"], times) is None
    assert measured_plan(["bitmask", "unpack"], times) is None


def test_without_dense_memory_comes_first_for_many_tokens() -> None:
    times = Times(dense={10**9: 10.0}, bitmask={1: 5.0, 10**9: 11.0}, unpack={10**9: 12.0})
    plan = measured_plan(["bitmask", "unpack"], times)
    assert plan is not None and str(plan) == "bitmask to 16, unpack above"
    assert "0.83× at 512" in plan.why, "what it costs is said"


def test_dense_is_timed_always_and_the_kernel_only_for_few_tokens() -> None:
    times = Times(dense={10**9: 10.0}, bitmask={10**9: 5.0}, unpack={10**9: 12.0})
    measured_plan(["bitmask", "unpack"], times)
    assert set(times.asked) == {tokens for _, tokens in BUCKETS}
    assert all("dense" in routes for routes in times.asked.values())
    assert "bitmask" in times.asked[16] and "bitmask" not in times.asked[64]


def test_a_plan_without_measuring() -> None:
    plan = fixed_plan(["bitmask", "unpack"], "why not")
    assert str(plan) == "bitmask to 16, unpack above" and plan.why == "why not"
    assert str(fixed_plan(["2:4", "dense"], "")) == "2:4"


def test_rounds_are_interleaved_and_the_first_does_not_count() -> None:
    order: list[str] = []
    times = {"dense": iter([99.0, 1.0, 5.0, 3.0]), "2:4": iter([99.0, 2.0, 2.0, 8.0])}

    def call(route: Route) -> float:
        order.append(route)
        return next(times[route])

    calls = {"dense": lambda: call("dense"), "2:4": lambda: call("2:4")}
    found = interleaved(calls, rounds=3)  # type: ignore[arg-type]
    assert found == {"dense": pytest.approx(3.0), "2:4": pytest.approx(2.0)}
    assert order == ["dense", "2:4"] * 4
