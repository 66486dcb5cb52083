"""`atp eval` with --compare, -o, --resume and gates, on a small plugin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conforming import GoodPlugin
from jsonschema import Draft202012Validator

import atp_core
from atp_core.cli import main
from atp_core.errors import DataError, GateError, UnknownNameError, UsageError
from atp_core.evaluation.comparison import Comparison
from atp_core.evaluation.schema import EvaluationRecord
from atp_core.gates import check_comparisons, parse_gates
from atp_core.hookspecs import hookimpl
from atp_core.records import Evaluation, Observations
from atp_core.testing.fixtures import IsolatedPlugins


class Observing(GoodPlugin):
    """Tells what each vector contributed, and how often it agrees with the dense model."""

    def __init__(self) -> None:
        self.measured: list[tuple[str, bool]] = []

    @hookimpl
    def atp_load(self, source: Any, request: Any) -> Any:
        return replace(super().atp_load(source, request), compares=True)

    @hookimpl
    def atp_evaluate(self, loaded: Any, data: Any, split: Any, metrics: Any) -> Evaluation:
        self.measured.append((Path(loaded.source.text).name, loaded.pruned))
        found = super().atp_evaluate(loaded, data, split, metrics)
        with torch.inference_mode():
            output = loaded.model(self.noise(split, 0, 16))
        if not loaded.pruned:
            loaded.dense[split] = output.argmax(-1)
        ids = [f"v{i}" for i in range(16)]
        seen = {"square": Observations(ids, output.pow(2).mean(-1).double().tolist())}
        extra = []
        if split in loaded.dense and loaded.pruned:
            same = (output.argmax(-1) == loaded.dense[split]).double()
            extra = [self.metric("agreement", 100 * float(same.mean()), split)]
            seen["agreement"] = Observations(ids, same.tolist(), summary="percent")
        return replace(found, metrics=[*found.metrics, *extra], observations=seen)


@pytest.fixture
def plugin(isolated_plugins: IsolatedPlugins) -> Observing:
    made = Observing()
    isolated_plugins.register("mine", made)
    return made


@pytest.fixture
def models(plugin: Observing, tmp_path: Path) -> tuple[str, str]:
    """A model, and it with its last layer three times as large."""
    from atp_core.records import LoadedModel, Source

    first, second = tmp_path / "dense", tmp_path / "large"
    first.mkdir()
    second.mkdir()
    plugin.three(first)
    loaded = atp_core.load(str(first))
    with torch.no_grad():
        loaded.model.leave.weight.mul_(3)
    plugin.atp_save(LoadedModel(loaded.model, Source("large")), second)
    plugin.measured.clear()
    return str(first), str(second)


def test_figures_are_paired_and_the_reference_is_handed_on(
    plugin: Observing, models: tuple[str, str]
) -> None:
    dense, large = models
    found = atp_core.evaluate(large, compare=[dense])
    assert plugin.measured == [("dense", False), ("large", True)]
    assert "agreement" in found.metrics and "agreement" not in found.others[0].metrics
    by_name = {one.metric: one for one in found.comparisons}
    square = by_name["square"]
    assert square.reference == dense
    assert square.difference == pytest.approx(
        found.metrics["square"].value - found.others[0].metrics["square"].value
    )
    assert square.verdict == "worse", "a square is better when it is lower, by the metric"
    assert by_name["size"].verdict == "not comparable", "it has no observations"


def test_a_model_compared_with_itself_is_equal(plugin: Observing, models: tuple[str, str]) -> None:
    found = atp_core.evaluate(models[0], compare=[models[0]])
    assert (found.comparisons[0].metric, found.comparisons[0].text) == ("square", "equal")
    assert found.metrics["agreement"].value == 100.0


def test_the_directory_and_its_schema(
    plugin: Observing, models: tuple[str, str], tmp_path: Path, capsys: Any
) -> None:
    dense, large = models
    words = ["eval", large, "--compare", dense, "--compare", large, "-o", str(tmp_path / "out")]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert [other["source"] for other in written["others"]] == ["dense", "large"]
    assert written["source"] == "large"
    assert str(tmp_path) not in json.dumps(written)
    assert written["metrics"] == told["metrics"]
    Draft202012Validator(EvaluationRecord.json_schema()).validate(written)
    again = EvaluationRecord.model_validate(written)
    assert again.comparisons[0].verdict == "worse"
    assert again.environment["versions"]["atp-prune"]
    observed = json.loads((tmp_path / "out" / "observations.json").read_text())
    assert len(observed["square"][0]["ids"]) == 16
    assert main(words) == 2, "an earlier measurement is not replaced unasked"
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    shown = capsys.readouterr().out
    assert "worse by" in shown and "agreement" in shown


def test_a_measurement_goes_into_the_directory_of_a_pruned_model(
    plugin: Observing, models: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "pruned"
    atp_core.prune(models[0], sparsity=0.5, samples=8, output=out)
    before = sorted(path.name for path in out.iterdir())
    atp_core.evaluate(str(out), compare=[models[0]], output=out)
    after = sorted(path.name for path in out.iterdir())
    assert set(after) - set(before) == {"eval.json", "observations.json"}


def test_other_directories_are_left_alone(models: tuple[str, str], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="atp did not write it"):
        atp_core.evaluate(models[0], output=other)
    with pytest.raises(UsageError, match="is a file"):
        atp_core.evaluate(models[0], output=other / "mine.txt")
    with pytest.raises(UsageError, match="no folder"):
        atp_core.evaluate(models[0], output=tmp_path / "none" / "out")
    with pytest.raises(UsageError, match="-o"):
        atp_core.evaluate(models[0], resume=True)


def test_resuming_measures_the_reference_again_only_where_it_is_needed(
    plugin: Observing, models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense, large = models
    evaluate = Observing.atp_evaluate
    broken = True

    def failing(self: Any, loaded: Any, data: Any, split: Any, metrics: Any) -> Any:
        if loaded.pruned and broken:
            raise DataError("the disk went away")
        return evaluate(self, loaded=loaded, data=data, split=split, metrics=metrics)

    monkeypatch.setattr(Observing, "atp_evaluate", hookimpl(failing))
    with pytest.raises(DataError):
        atp_core.evaluate(large, compare=[dense], output=tmp_path / "out")
    broken = False
    plugin.measured.clear()
    found = atp_core.evaluate(large, compare=[dense], output=tmp_path / "out", resume=True)
    assert plugin.measured == [("dense", False), ("large", True)], "its outputs were needed"
    assert "agreement" in found.metrics


# --- gates ---------------------------------------------------------------------------------------


def compared(verdict: Any, difference: float) -> Comparison:
    return Comparison(
        "top1", "dense", 0.0, 0.0, difference, 0.1, (0.0, 0.0), 0.95, 4, "%", verdict,
        f"{verdict} by {difference}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gate", "comparison", "missed"),
    [
        ("worse", compared("worse", -3.0), True),
        ("worse", compared("within noise", -3.0), False),
        ("worse", compared("better", 3.0), False),
        ("top1:delta<-1", compared("worse", -3.0), True),
        ("top1:delta<-1", compared("worse", -0.5), False),
        ("top1:delta<-1", compared("not comparable", float("nan")), True),
    ],
)
def test_gates_of_comparisons(gate: str, comparison: Comparison, missed: bool) -> None:
    of_metrics, of_comparisons = parse_gates([gate], compares=True)
    assert of_metrics == []
    if missed:
        with pytest.raises(GateError, match="top1"):
            check_comparisons(of_comparisons, [comparison])
    else:
        check_comparisons(of_comparisons, [comparison])


def test_gates_that_make_no_sense() -> None:
    for gate in ("worse", "top1:delta<-1"):
        with pytest.raises(UsageError, match="--compare"):
            parse_gates([gate], compares=False)
    with pytest.raises(UnknownNameError, match="Did you mean 'top1'"):
        check_comparisons(parse_gates(["top:delta<0"], compares=True)[1], [compared("worse", -1.0)])
    with pytest.raises(UsageError, match="not of the form"):
        parse_gates(["top1:ratio<0"], compares=True)


def test_gates_end_the_command(models: tuple[str, str]) -> None:
    dense, large = models
    words: Sequence[str] = ["eval", large, "--compare", dense]
    assert main([*words, "--fail-if", "worse"]) == 5
    assert main([*words, "--fail-if", "square:delta>1000"]) == 0
    assert main([*words, "--fail-if", "square<1000"]) == 5
    assert main(["eval", dense, "--compare", dense, "--fail-if", "worse"]) == 0


# --- what is left beside the output --------------------------------------------------------------


def test_a_measurement_that_fails_at_once_leaves_nothing(
    plugin: Observing, models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Any, loaded: Any, data: Any, split: Any, metrics: Any) -> Any:
        raise DataError("there is no such data")

    monkeypatch.setattr(Observing, "atp_evaluate", hookimpl(failing))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError):
        atp_core.evaluate(models[0], output=tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_measurement_leaves_the_journal_of_an_interrupted_pruning_alone(
    plugin: Observing, models: tuple[str, str], tmp_path: Path
) -> None:
    pruning = tmp_path / ".out.atp-work" / "journal.jsonl"
    pruning.parent.mkdir()
    pruning.write_text("{}\n")
    atp_core.evaluate(models[0], output=tmp_path / "out")
    assert [path.name for path in pruning.parent.iterdir()] == ["journal.jsonl"]
