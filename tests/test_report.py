"""Figures, terminal tables and the model card, from small synthetic results."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from atp_core.checkpoint import model_card
from atp_core.engine.pruning import BlockReport, PruneReport
from atp_core.recipe import Recipe
from atp_core.records import Block, Chain, Metric, PrunableWeight, Schedule
from atp_core.report import (
    objective_figure,
    print_evaluation,
    print_inspection,
    print_result,
    print_search,
    rates_figure,
)
from atp_core.results import EvaluateResult, InspectResult, PruneResult, SearchResult
from atp_core.trials import Trial

BLOCKS = 6


def schedule(beta: float, chains: tuple[str, ...] = ("decoder",)) -> Schedule:
    rates = {f"layers.{i}": 0.5 + beta * (i - (BLOCKS - 1) / 2) for i in range(BLOCKS)}
    return Schedule(dict.fromkeys(chains, rates), 0.5, "atp", beta)


def metric(value: float, stderr: float | None = 0.25, name: str = "perplexity") -> Metric:
    return Metric(
        name=name,
        value=value,
        stderr=stderr,
        n=1000,
        unit="per token",
        higher_is_better=name != "perplexity",
        split="report",
        dataset="text [test] | part",
        fingerprint="f",
        convention="windows of 64 tokens",
    )


def trial(beta: float, objective: float, stage: str = "search") -> Trial:
    return Trial(beta, objective, 1.5, stage, 8 if stage == "search" else 32, "digest", 0)


def search_result(beta: float = 0.02) -> SearchResult:
    return SearchResult(
        source="/somewhere/my-model",
        plugin="llm",
        method="wanda",
        schedule=schedule(beta),
        objective="perplexity",
        higher_is_better=False,
        trials=[trial(0.0, 60.0), trial(0.02, 50.0), trial(0.0, 59.0, "final"),
                trial(0.02, 49.0, "final")],
        seconds=75.0,
        beta_limit=0.2,
    )  # fmt: skip


def prune_result(beta: float = 0.02, **changes: Any) -> PruneResult:
    blocks = [
        BlockReport("decoder", name, rate, round(rate * 1000), 1000)
        for _, name, rate in schedule(beta)
    ]
    settings: dict[str, Any] = {
        "search": search_result(beta),
        "report": PruneReport(blocks, 1.0),
        "metrics": {
            "dense": {"perplexity": metric(30.0)},
            "uniform": {"perplexity": metric(60.0)},
            "pruned": {"perplexity": metric(48.0)},
        },
        "seconds": 100.0,
        "output": Path("out"),
        "notes": ["a note", "a note"],
        "total_parameters": 9000,
        "bytes_on_disk": 18000,
    }
    return PruneResult(**{**settings, **changes})


def printed(function: Any, *args: Any, **options: Any) -> str:
    stream = io.StringIO()
    function(*args, Console(file=stream, width=120), **options)
    return stream.getvalue()


# --- figures -----------------------------------------------------------------------------------

CURVES: dict[str, list[tuple[float, float, str]]] = {
    "none": [],
    "one": [(0.0, 30.0, "final")],
    "several": [(0.0, 60.0, "search"), (0.01, 50.0, "search"), (0.02, 55.0, "search")],
    "wide": [(0.002 * i, 10.0 ** (1 + i % 4), "search") for i in range(12)],
    "broken": [(0.0, math.nan, "search"), (0.01, math.inf, "search")],
    "negative": [(0.0, -1.0, "search"), (0.01, 0.0, "search"), (0.02, 7.0, "final")],
}


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.parametrize("curve", CURVES)
def test_objective_figure_is_the_same_when_drawn_again(
    tmp_path: Path, curve: str, suffix: str
) -> None:
    trials = [{"beta": b, "objective": o, "stage": s} for b, o, s in CURVES[curve]]
    files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for file in files:
        assert objective_figure(trials, file, "perplexity") == file
    assert files[0].read_bytes() == files[1].read_bytes()


def drawn(trials: list[Trial], path: Path, **options: Any) -> str:
    objective_figure([t.to_dict() for t in trials], path, "perplexity", **options)
    return path.read_text(encoding="utf-8")


def test_objective_figure_marks_uniform_and_the_chosen_beta(tmp_path: Path) -> None:
    text = drawn(list(search_result().trials), tmp_path / "o.svg", chosen=0.02)
    assert "uniform (β = 0): 59" in text
    assert "chosen: β = 0.02, 49" in text
    assert "trials on 8 samples" in text
    assert "confirmed on 32 samples" in text
    assert "lower is better" in text


def test_objective_figure_finds_the_best_in_either_direction(tmp_path: Path) -> None:
    trials = [trial(0.0, 60.0), trial(0.01, 70.0), trial(0.02, 50.0)]
    assert "chosen: β = 0.02" in drawn(trials, tmp_path / "low.svg")
    assert "chosen: β = 0.01" in drawn(trials, tmp_path / "high.svg", higher_is_better=True)


def test_beta_that_was_not_judged_is_not_marked(tmp_path: Path) -> None:
    assert "chosen" not in drawn([trial(0.0, 60.0)], tmp_path / "o.svg", chosen=0.013)


@pytest.mark.parametrize("chains", [("decoder",), ("vision", "text"), ("a", "b", "c")])
def test_rates_figure_has_a_panel_a_chain(tmp_path: Path, chains: tuple[str, ...]) -> None:
    file = tmp_path / "rates.svg"
    both = {"uniform": schedule(0.0, chains), "ATP": schedule(0.02, chains)}
    rates_figure(both, file)
    text = file.read_text(encoding="utf-8")
    assert text.count("block, in the order of the forward pass") == len(chains)
    assert "uniform" in text
    if len(chains) > 1:
        assert all(f">{chain}<" in text for chain in chains)


def test_rates_figure_of_schedules_that_differ_in_chains(tmp_path: Path) -> None:
    both = {"a": schedule(0.0, ("x",)), "b": schedule(0.1, ("y",))}
    file = rates_figure(both, tmp_path / "r.png")
    assert file.stat().st_size > 0


def test_figures_leave_the_callers_matplotlib_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    rates_figure({"ATP": schedule(0.02)}, tmp_path / "rates.png")
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_is_imported_when_drawing_only() -> None:
    code = "import sys, atp_core.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- terminal ----------------------------------------------------------------------------------


def test_result_compares_with_dense_and_uniform() -> None:
    text = printed(print_result, prune_result())
    assert "48 ± 0.25" in text
    assert "1.6×" in text
    assert "0.8×" in text
    assert "3,000 of 6,000 prunable weights are zero (50 %), 33.3 % of all 9,000" in text
    assert "text [test] | part" in text
    assert text.count("a note") == 1
    assert "dense zeros" in text
    assert "layers.5" in text


def test_result_without_baseline_stderr_or_finite_value() -> None:
    metrics = {
        "dense": {"perplexity": metric(30.0, None)},
        "pruned": {"perplexity": metric(math.inf, math.nan), "top1": metric(0.5, name="top1")},
    }
    text = printed(print_result, prune_result(metrics=metrics, output=None))
    assert "inf" in text
    assert "uniform" not in text
    assert "± nan" not in text


def test_search_shows_trials_and_rates() -> None:
    text = printed(print_search, search_result(), output="there")
    assert "(uniform)" in text
    assert "final" in text
    assert "1 min 15 s" in text
    assert "there" in text


def test_evaluation() -> None:
    found = EvaluateResult("m", "llm", {"perplexity": metric(30.0)}, 1.0)
    assert "30 ± 0.25" in printed(print_evaluation, found)


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("zeros", [{}, {"layers.0": 6}])
def test_inspection(every: bool, zeros: dict[str, int]) -> None:
    layer = torch.nn.Linear(4, 3, bias=False)
    block = Block("layers.0", layer, [PrunableWeight("layers.0.weight", layer)])
    chain = Chain("decoder", [block], {"lm_head": "output layer"})
    found = InspectResult("m", "llm", "it says so", [chain], 24, zeros)
    text = printed(print_inspection, found, every=every)
    assert "lm_head (output layer)" in text
    assert "12 of 24 parameters are prunable (50 %)" in text
    assert ("3×4" in text) == every
    assert ("6 of them are zero (50 %)" in text) == bool(zeros)


# --- model card --------------------------------------------------------------------------------


def card(result: PruneResult | None = None, **options: Any) -> tuple[dict[str, Any], str]:
    recipe = Recipe.make({"source": "/somewhere/my-model", "sparsity": 0.5, "output": "/x/out"})
    text = model_card(result or prune_result(), recipe, **options)
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_card_front_matter() -> None:
    front, _ = card(base_model="org/model", library_name="transformers", license_name="mit")
    assert front["base_model"] == "org/model"
    assert front["library_name"] == "transformers"
    assert front["license"] == "mit"
    assert {"pruned", "sparse", "atp"} <= set(front["tags"])


def test_card_leaves_out_what_is_not_known() -> None:
    assert set(card()[0]) == {"tags"}
    tags = card(extra={"tags": ["clip", "sparse"]})[0]["tags"]
    assert tags == ["pruned", "sparse", "atp", "clip"]
    assert card(extra={"pipeline_tag": "text-generation"})[0]["pipeline_tag"] == "text-generation"


def test_card_body() -> None:
    _, body = card(figures=["rates.png"], plugin_distribution="atp-prune-llm")
    assert "pip install atp-prune-llm\n" in body
    assert "| perplexity ↓ | 30 ± 0.25 | 60 ± 0.25 | 48 ± 0.25 |" in body
    assert "text [test] \\| part" in body
    assert "windows of 64 tokens" in body
    assert "![rates.png](rates.png)" in body
    assert "atp prune my-model --sparsity 0.5 -o out" in body
    assert "dense zeros" in body
    assert "| decoder | `layers.0` | 0.4500 | 0.4500 | 1,000 |" in body
    assert "/somewhere" not in body


def test_card_says_when_nothing_beat_uniform() -> None:
    assert "β = 0 is uniform sparsity" in card(prune_result(0.0))[1]
    assert "β = 0 is uniform sparsity" not in card()[1]
