"""Proposals of the β search, and the journal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atp_core.errors import UsageError
from atp_core.trials import Trial, best
from atp_core.trials.beta import Adaptive, Grid, Point, search_beta
from atp_core.trials.journal import Journal


def trial(beta: float, objective: float) -> Trial:
    return Trial(beta, objective, 0.0, "search", 8, "", 0)


def run(objective: Callable[[float], float], limit: float, higher: bool = False) -> list[Trial]:
    return search_beta(
        lambda betas: [trial(beta, objective(beta)) for beta in betas],
        Adaptive(limit),
        higher_is_better=lambda: higher,
    )


@given(
    limit=st.floats(1e-4, 0.2),
    where=st.floats(0.0, 1.0),
    sharpness=st.floats(0.5, 50.0),
)
def test_adaptive_finds_the_bottom_of_a_bowl(limit: float, where: float, sharpness: float) -> None:
    bottom = where * limit
    trials = run(lambda b: math.exp(3 + sharpness * ((b - bottom) / limit) ** 2), limit)
    winner = best(trials, higher_is_better=False)
    assert math.log(winner.objective) - 3 <= 0.01 or abs(winner.beta - bottom) <= limit / 16
    assert trials[0].beta == 0.0
    assert len(trials) <= 8
    assert len({t.beta for t in trials}) == len(trials)
    assert all(0.0 <= t.beta <= limit for t in trials)


@given(st.lists(st.floats(0.1, 1e9), min_size=8, max_size=8))
def test_adaptive_ends_on_any_objective(values: list[float]) -> None:
    given_values = iter(values)
    trials = run(lambda b: next(given_values), 0.02)
    assert 3 <= len(trials) <= 8
    assert len({t.beta for t in trials}) == len(trials)


def test_adaptive_maximizes_where_higher_is_better() -> None:
    trials = run(lambda b: 0.8 - (b - 0.01) ** 2 * 1e3, 0.02, higher=True)
    assert best(trials, higher_is_better=True).beta == pytest.approx(0.01, abs=0.002)


def test_adaptive_maximizes_an_accuracy_in_percent() -> None:
    trials = run(lambda b: 75.0 - ((b - 0.008) * 5e2) ** 2, 0.02, higher=True)
    assert best(trials, higher_is_better=True).beta == pytest.approx(0.008, abs=0.001)


def test_adaptive_survives_infinite_and_nan_objectives() -> None:
    trials = run(lambda b: math.nan if b > 0.004 else (math.inf if b > 0.002 else 30.0), 0.02)
    assert best(trials, higher_is_better=False).beta == 0.0


def test_uniform_wins_ties() -> None:
    assert best([trial(0.01, 5.0), trial(0.0, 5.0)], higher_is_better=False).beta == 0.0


def test_nothing_to_search_where_no_slope_is_legal() -> None:
    assert [t.beta for t in run(lambda b: 1.0, 0.0)] == [0.0]


@pytest.mark.parametrize(
    ("sparsity", "blocks", "steps"),
    # Figures of the paper: floor(β_max / 0.002) trials beside β = 0.
    [(0.5, 32, 16), (0.6, 32, 12), (0.7, 32, 9), (0.8, 32, 6), (0.7, 40, 7), (0.7, 80, 3)],
)
def test_grid_has_the_papers_number_of_trials(sparsity: float, blocks: int, steps: int) -> None:
    limit = min(2 * sparsity, 2 * (1 - sparsity)) / (blocks - 1)
    points = Grid(limit, 0.002)([])
    assert len(points) == steps + 1
    assert points[0] == 0.0
    assert points[-1] <= limit + 1e-9


def test_grid_proposes_only_what_is_missing() -> None:
    grid = Grid(0.01, 0.002)
    points = grid([])
    assert grid([Point(beta, 1.0) for beta in points[:3]]) == points[3:]
    assert grid([Point(beta, 1.0) for beta in points]) == []


@pytest.mark.parametrize("step", [0.0, -0.002, math.nan, math.inf])
def test_grid_refuses_a_step_that_is_none(step: float) -> None:
    with pytest.raises(UsageError, match="positive"):
        Grid(0.01, step)


IDENTITY = {"source": "model", "sparsity": 0.5}


class TestJournal:
    def journal(self, path: Path, **options: bool) -> Journal:
        return Journal(path, IDENTITY, **options)

    def test_results_survive(self, tmp_path: Path) -> None:
        path = tmp_path / "work" / "journal.jsonl"
        self.journal(path).put("a", {"x": 0.1 + 0.2, "inf": math.inf})
        resumed = self.journal(path, resume=True)
        assert resumed.get("a") == {"x": 0.1 + 0.2, "inf": math.inf}
        assert resumed.get("b") is None

    def test_half_a_line_is_dropped_and_writing_goes_on(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        journal = self.journal(path)
        journal.put("a", {"x": 1})
        with path.open("a") as file:
            file.write('{"key": "b", "resu')
        resumed = self.journal(path, resume=True)
        assert resumed.get("b") is None
        resumed.put("c", {"x": 3})
        again = self.journal(path, resume=True)
        assert again.get("a") == {"x": 1}
        assert again.get("c") == {"x": 3}

    def test_another_run_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        self.journal(path).put("a", {"x": 1})
        with pytest.raises(UsageError, match=r"sparsity was 0\.5 and is 0\.6"):
            Journal(path, {"source": "model", "sparsity": 0.6}, resume=True)
        assert json.loads(path.read_text().splitlines()[1])["key"] == "a", "nothing is lost"

    def test_results_are_not_thrown_away_unasked(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        self.journal(path).put("a", {"x": 1})
        with pytest.raises(UsageError, match="--resume"):
            self.journal(path)
        assert self.journal(path, overwrite=True).get("a") is None

    def test_resume_without_a_journal_starts(self, tmp_path: Path) -> None:
        journal = self.journal(tmp_path / "journal.jsonl", resume=True)
        journal.put("a", {"x": 1})
        assert len(journal) == 1

    def test_a_file_that_is_no_journal_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        path.write_text("hello\n")
        with pytest.raises(UsageError, match="not a journal"):
            self.journal(path, resume=True)
