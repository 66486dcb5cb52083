"""Allocations side by side, on the TinyStories model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import atp_core
from atp_core._contenders import contenders
from atp_core._session import Session
from atp_core.allocation.file import from_file
from atp_core.cli import main
from atp_core.errors import NumericalError, UnknownNameError, UsageError
from atp_core.recipe import Recipe
from atp_core.records import Source

pytest.importorskip("atp_llm", reason="the plugin for language models is not installed")
pytest.importorskip("optuna", reason="Optuna is not installed")

FEW: dict[str, Any] = {
    "samples": 4, "seqlen": 32, "search_samples": 2, "report_samples": 2, "trial_samples": 2,
}  # fmt: skip
NAMES = ["atp", "bayes-tpe:trials=5", "owl"]


@pytest.fixture
def model(shared: Callable[[str], Path]) -> str:
    """The TinyStories model."""
    return str(shared("models/stories260k"))


def compared(model: str, **changes: Any) -> atp_core.CompareResult:
    """Three allocations and uniform at two sparsities."""
    settings = {"allocations": NAMES, "sparsities": [0.5, 0.7], **FEW, **changes}
    return atp_core.compare(model, **settings)


def test_each_cell_is_what_a_run_of_its_own_gives(model: str) -> None:
    found = compared(model)
    assert [(cell.sparsity, cell.allocation) for cell in found.cells] == [
        (sparsity, name) for sparsity in (0.5, 0.7) for name in ("uniform", *NAMES)
    ]
    assert all(cell.error == "" for cell in found.cells)
    for cell in found.cells:
        if cell.allocation not in ("atp", "owl"):
            continue
        alone = atp_core.prune(model, sparsity=cell.sparsity, allocation=cell.allocation, **FEW)
        assert cell.schedule is not None
        assert cell.schedule.digest == alone.schedule.digest
        for name, metric in cell.metrics.items():
            assert metric.value == alone.metrics["pruned"][name].value
        assert found.dense["perplexity"].value == alone.metrics["dense"]["perplexity"].value
        [pair] = [one for one in cell.against_uniform if one["metric"] == "perplexity"]
        uniform = next(c for c in found.cells if c.sparsity == cell.sparsity)
        assert pair["reference_value"] == uniform.metrics["perplexity"].value


def test_an_interrupted_comparison_goes_on_and_gives_the_same(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compared(model)
    prune, calls = Session.prune, 0

    def stopping(self: Session, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return prune(self, *arguments, **options)

    monkeypatch.setattr(Session, "prune", stopping)
    with pytest.raises(KeyboardInterrupt):
        compared(model, output=tmp_path / "out")
    with pytest.raises(UsageError, match="--resume"):
        compared(model, output=tmp_path / "out")
    resumed = compared(model, output=tmp_path / "out", resume=True)
    for one, other in zip(whole.cells, resumed.cells, strict=True):
        assert one.schedule is not None and other.schedule is not None
        assert one.schedule.digest == other.schedule.digest
        assert one.metrics["perplexity"].value == other.metrics["perplexity"].value
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "atp.json", "compare.json", "schedules", "wanda.png", "wanda-0.7-rates.svg",
    }  # fmt: skip
    written = from_file(tmp_path / "out" / "schedules" / "wanda-0.7-owl.json")
    assert written.digest == next(
        c.schedule.digest for c in whole.cells
        if c.allocation == "owl" and c.sparsity == 0.7 and c.schedule is not None
    )  # fmt: skip


def test_one_object_on_stdout(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsuited(*_: Any) -> None:
        raise NumericalError("no spectrum")

    monkeypatch.setattr("atp_core.allocation.owl.OWL.allocate", unsuited)
    words = ["compare", model, "--allocations", "owl,dlp", "-s", "0.6"]
    words += ["--samples", "4", "--seqlen", "32", "--report-samples", "2", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    cells = {cell["allocation"]: cell for cell in told["cells"]}
    assert cells["owl"]["error"] == "no spectrum", "it is recorded, and others run"
    assert cells["dlp"]["error"] == ""
    assert cells["dlp"]["metrics"]["perplexity"]["value"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--allocations", "atp:beta=1"], "option of its own"),
        (["--allocations", "uniform,owl:lambda=7"], "'lambda' must be a number in"),
        (["--allocations", "dlp:lambda=0.1"], "no option 'lambda'"),
        (["--allocations", "missing.json"], "missing.json"),
        (["--allocations", "bayes-tpe:trials=0"], "whole number from 1"),
        (["--allocations", "atp", "--beta", "0.9"], "range"),
    ],
)
def test_mistakes_end_the_run_before_anything_is_pruned(
    model: str,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pruned(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be pruned")

    monkeypatch.setattr(Session, "prune", pruned)
    small = ["--samples", "4", "--seqlen", "32", "--report-samples", "2"]
    assert main(["compare", model, "-s", "0.6", *words, *small]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--allocations", "owll", "-s", "0.5"], "Did you mean 'owl'"),
        (["--allocations", "owl:lambda", "-s", "0.5"], "not of the form option=value"),
        (["-s", "half"], "not of the form 0.5,0.6"),
        (["-s", "0.5", "--methods", "wandaa"], "Did you mean 'wanda'"),
        (["-s", "1.5"], "range"),
        (["-s", "0.5", "--resume"], "-o"),
    ],
)
def test_wrong_requests(
    model: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", model, *words]) == 2
    assert message in capsys.readouterr().err


def test_what_a_user_writes() -> None:
    offered = ["atp", "bayes-tpe", "owl", "uniform"]
    assert [one.label for one in contenders(["all"], offered)] == ["uniform", "atp", "owl"]
    [_, one] = contenders(["owl:M=3:lambda=0.1:estimator=mid:across=true"], offered)
    assert one.settings["allocation_options"] == {
        "M": 3, "lambda": 0.1, "estimator": "mid", "across": True,
    }  # fmt: skip
    [_, file] = contenders(["mine/rates.json"], offered)
    assert (file.label, file.settings["schedule"]) == ("rates", "mine/rates.json")


# --- what allocations see ------------------------------------------------------------------------


def test_norms_and_inputs_are_those_of_the_dense_model(model: str) -> None:
    recipe = Recipe.make({"source": model, "sparsity": 0.5, **FEW})
    session = Session(recipe, Source(model))
    request = session.request(Looking(), session.chains)
    [chain] = session.chains
    inputs = request.shown.inputs(chain)
    seen: dict[str, torch.Tensor] = {}
    entered: dict[str, list[torch.Tensor]] = {}
    handles = []
    for block in chain.blocks:
        handles.append(
            block.module.register_forward_pre_hook(
                lambda m, a, n=block.name: entered.setdefault(n, []).append(a[0][0].clone())
            )
        )
        for weight in block.weights:
            handles.append(
                weight.module.register_forward_pre_hook(
                    lambda m, a, n=weight.name: seen.__setitem__(
                        n, seen.get(n, 0) + a[0][0].double().square().sum(0)
                    )
                )
            )
    with torch.inference_mode():
        for batch in session.calibration.batches:
            session.calibration.forward(batch)
    for handle in handles:
        handle.remove()
    for block, rows in zip(chain.blocks, inputs, strict=True):
        assert torch.equal(rows, torch.cat(entered[block.name]))
        for weight in block.weights:
            norms = request.shown.norms(weight)
            assert norms is not None
            torch.testing.assert_close(norms.double(), seen[weight.name].sqrt(), rtol=1e-5, atol=0)


def test_the_loss_is_that_of_the_search_split(model: str) -> None:
    recipe = Recipe.make({"source": model, "sparsity": 0.5, **FEW})
    session = Session(recipe, Source(model))
    request = session.request(Looking(), session.chains)
    loss = request.shown.loss()
    metric = session.evaluate("search").metric()
    assert loss == pytest.approx(torch.tensor(metric.value).log().item(), rel=1e-6)
    assert not session.loaded.pruned


class Looking:
    """An allocation that looks at everything."""

    name = "looking"
    needs = frozenset({"observed", "weights", "loss"})


def test_a_rival_is_measured_beside_uniform(model: str) -> None:
    result = atp_core.prune(
        model, sparsity=0.5, allocation="owl", allocation_options={"lambda": 0.2}, **FEW
    )
    assert set(result.metrics) == {"dense", "uniform", "pruned"}
    rates = list(result.schedule.rates["decoder"].values())
    assert max(rates) - min(rates) == pytest.approx(0.4)
    with pytest.raises(UsageError, match="no option 'lamda'"):
        atp_core.prune(
            model, sparsity=0.5, allocation="owl", allocation_options={"lamda": 0.2}, **FEW
        )


# --- Bayesian search -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bayes-tpe", "bayes-gp"])
def test_a_bayesian_search_is_never_worse_than_uniform(name: str, model: str) -> None:
    found = atp_core.search(
        model, sparsity=0.7, allocation=name, allocation_options={"trials": 12}, **FEW
    )
    tried = [trial for trial in found.trials if trial.stage == "search"]
    assert len({trial.schedule for trial in tried}) == 12
    final = {trial.schedule: trial.objective for trial in found.trials if trial.stage == "final"}
    uniform = tried[0].schedule
    assert final[found.schedule.digest] <= final[uniform]
    again = atp_core.search(
        model, sparsity=0.7, allocation=name, allocation_options={"trials": 12}, **FEW
    )
    assert [t.objective for t in again.trials] == [t.objective for t in found.trials]


def test_wrong_options_of_a_search(model: str) -> None:
    for options, message in (({"trials": 0}, "from 1"), ({"trails": 5}, "no option 'trails'")):
        with pytest.raises(UsageError, match=message):
            atp_core.search(
                model, sparsity=0.7, allocation="bayes-tpe", allocation_options=options, **FEW
            )


def test_an_unknown_allocation_is_told_before_the_model_is_loaded() -> None:
    with pytest.raises(UnknownNameError, match="bayes-tpe"):
        atp_core.prune("embedded:smollm2-135m", sparsity=0.5, allocation="bayes-tp")
