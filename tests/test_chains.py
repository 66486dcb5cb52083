"""Several chains: which are pruned, each with its own sparsity and β, and what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from towers import Towers, TowersPlugin

from atp_core._plugins import build_manager
from atp_core._session import Session
from atp_core._workflow import Pruning
from atp_core.allocation.betas import beta_text, by_chain, shortest, steepness
from atp_core.api import prune, run_prune
from atp_core.errors import UnknownNameError, UsageError
from atp_core.recipe import Recipe
from atp_core.records import Schedule, Source
from atp_core.trials.journal import Journal


def session(plugin: TowersPlugin, **settings: Any) -> Session:
    recipe = Recipe.make({"source": "towers", "sparsity": 0.5, **settings})
    plugins = build_manager(discover=False, extra=[("towers", plugin)])
    return Session(recipe, Source("towers", Towers()), plugins=plugins)


def pruning(plugin: TowersPlugin, **settings: Any) -> Pruning:
    return Pruning(session(plugin, **settings), Journal(None, {}))


class TestWhichChains:
    def test_all_by_default(self) -> None:
        assert [chain.name for chain in session(TowersPlugin()).chains] == ["left", "right"]

    def test_those_pruned_by_default(self) -> None:
        found = session(TowersPlugin(default=["right"]))
        assert [chain.name for chain in found.chains] == ["right"]
        assert len(found.locate(found.loaded, every=True)) == 2

    @pytest.mark.parametrize(
        "settings", [{"chains": ["left"]}, {"sparsity": {"left": 0.5}}], ids=["chains", "sparsity"]
    )
    def test_those_named(self, settings: dict[str, Any]) -> None:
        found = session(TowersPlugin(default=["right"]), **settings)
        assert [chain.name for chain in found.chains] == ["left"]

    def test_unknown_chain(self) -> None:
        with pytest.raises(UnknownNameError, match="Did you mean 'left'"):
            _ = session(TowersPlugin(), chains=["lefft"]).chains


class TestOneBetaEach:
    def test_given(self) -> None:
        found = pruning(TowersPlugin(), beta={"left": 0.1, "right": 0.02}, baseline=False).search()
        assert found.beta == {"left": 0.1, "right": 0.02}
        left, right = (list(found.schedule.rates[name].values()) for name in ("left", "right"))
        assert left == pytest.approx([0.4, 0.5, 0.6])
        assert right == pytest.approx([0.47, 0.49, 0.51, 0.53])

    @pytest.mark.parametrize(
        ("beta", "told"),
        [
            ({"left": 0.1}, "no β is given for chain 'right'"),
            ({"left": 0.1, "right": 0.5}, r"outside \[0, 0\.333333\], its range for chain 'right'"),
            ({"left": 0.1, "rigth": 0.1}, "Did you mean 'right'"),
        ],
    )
    def test_given_wrongly(self, beta: dict[str, float], told: str) -> None:
        with pytest.raises(UsageError, match=told):
            pruning(TowersPlugin(), beta=beta).search()

    def test_searched(self) -> None:
        work = pruning(TowersPlugin(compares=True), beta_per_chain=True)
        found = work.search()
        by_stage = {
            stage: [trial for trial in found.trials if trial.stage == stage]
            for stage in ("search", "search left", "search right", "final")
        }
        assert by_stage["search"][0].beta == 0.0
        joint = min(by_stage["search"], key=lambda trial: trial.objective)
        # The larger chain is varied first, from the β found for all.
        assert {trial.beta["left"] for trial in by_stage["search right"]} == {joint.beta}
        assert len({trial.beta["right"] for trial in by_stage["search right"]}) >= 3
        each = min(by_stage["search left"], key=lambda trial: trial.objective)
        assert each.objective <= joint.objective
        assert by_stage["final"][0].beta == 0.0
        winner = min(by_stage["final"], key=lambda trial: trial.objective)
        assert found.beta == winner.beta
        assert len(by_stage["final"]) == 3

    def test_measured(self) -> None:
        found = pruning(TowersPlugin(), beta="auto", beta_per_chain=True).measure()
        assert set(found["closed_form"]) == {"left", "right"}
        taken = by_chain(found["beta"], ["left", "right"])
        assert all(0.0 <= beta <= 0.25 for beta in taken.values())

    def test_not_beside_a_given_beta(self) -> None:
        with pytest.raises(UsageError, match="--beta-per-chain is for a β that is searched"):
            pruning(TowersPlugin(), beta=0.1, beta_per_chain=True)

    def test_schedule_round_trip(self) -> None:
        schedule = Schedule({"left": {"a": 0.5}}, 0.5, "atp", {"left": 0.1})
        assert Schedule.from_dict(schedule.to_dict()) == schedule

    def test_words(self) -> None:
        assert shortest({"a": 0.1, "b": 0.1}) == 0.1
        assert shortest({"a": 0.1, "b": 0.2}) == {"a": 0.1, "b": 0.2}
        assert steepness({"a": 0.1, "b": 0.25}) == pytest.approx(0.35)
        assert beta_text({"a": 0.01234567, "b": 0}) == "a 0.01235, b 0"
        assert beta_text(0.01234567) == "0.01235"

    def test_recipe_and_command(self) -> None:
        recipe = Recipe.make({"source": "x", "sparsity": 0.5, "beta": {"left": 0.1, "right": 0.2}})
        assert "--beta left=0.1,right=0.2" in recipe.command()
        assert Recipe.make(recipe.model_dump(mode="json")) == recipe
        per_chain = Recipe.make({"source": "x", "sparsity": 0.5, "beta_per_chain": True})
        assert "--beta-per-chain" in per_chain.command()


class TestComparingWithTheDenseModel:
    def test_each_split_is_seen_dense_first_and_once(self) -> None:
        plugin = TowersPlugin(compares=True)
        work = pruning(plugin)
        dense = work.report_metrics("dense", None)
        found = work.search()
        pruned = work.report_metrics("pruned", found.schedule)
        assert [seen for seen in plugin.evaluated if not seen[1]].count(("search", False)) == 1
        assert plugin.evaluated.index(("search", False)) < plugin.evaluated.index(("search", True))
        assert dense["distance"].value == 0.0 < pruned["distance"].value

    def test_where_dense_figures_are_reported_they_are_not_measured_again(self) -> None:
        plugin = TowersPlugin(compares=True)
        work = pruning(plugin)
        work.report_metrics("dense", None)
        work.report_metrics("pruned", work.schedule(0.1))
        assert plugin.evaluated == [("report", False), ("report", True)]

    def test_only_on_the_splits_it_names(self) -> None:
        plugin = TowersPlugin(compares=frozenset({"report"}))
        work = pruning(plugin)
        found = work.search()
        pruned = work.report_metrics("pruned", found.schedule)
        assert ("search", False) not in plugin.evaluated
        assert plugin.evaluated[-2:] == [("report", False), ("report", True)]
        assert pruned["distance"].value > 0.0

    def test_also_where_the_journal_knows_the_dense_figures(self) -> None:
        plugin = TowersPlugin(compares=True)
        journal = Journal(None, {})
        one = Pruning(session(plugin), journal)
        one.report_metrics("dense", None)
        two = Pruning(session(plugin), journal)
        two.report_metrics("dense", None)
        pruned = two.report_metrics("pruned", two.schedule(0.1))
        assert pruned["distance"].value > 0.0


class TestWithoutReportData:
    def test_it_is_said_and_all_else_is_done(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plugins = build_manager(discover=False, extra=[("towers", TowersPlugin(report=False))])
        monkeypatch.setattr("atp_core._session.build_manager", lambda: plugins)
        recipe = Recipe.make({"source": "towers", "sparsity": 0.5, "output": tmp_path / "out"})
        result = run_prune(recipe, Source("towers", Towers()))
        assert result.metrics["pruned"] == {}
        assert any("give --report-data" in note for note in result.notes)
        card = (tmp_path / "out" / "README.md").read_text("utf-8")
        assert "## Results" not in card and "## Rates" in card
        from rich.console import Console

        from atp_core.report.terminal import print_result

        console = Console(record=True, width=100)
        print_result(result, console)
        assert "give --report-data" in console.export_text()


def test_output_of_a_search_by_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = build_manager(discover=False, extra=[("towers", TowersPlugin(compares=True))])
    monkeypatch.setattr("atp_core._session.build_manager", lambda: plugins)
    result = prune(Towers(), sparsity=0.6, beta_per_chain=True, output=tmp_path / "out")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"objective.png", "objective-left.png", "objective-right.svg"} <= names
    assert result.sparsity == pytest.approx(0.6, abs=1e-2)
