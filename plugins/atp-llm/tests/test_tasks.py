"""Tasks of lm-eval on a model in memory, against lm-eval's own command."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import atp_core
from atp_core.cli import main
from atp_core.errors import DataError, UnknownNameError, UsageError
from atp_core.presets import PRESETS

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

SEVEN = list(PRESETS["zeroshot7"])
OTHERS = ["cb", "copa", "lambada_openai", "mrpc", "rte", "sciq", "social_iqa", "sst2"]


@pytest.fixture
def model(shared: Callable[[str], Path]) -> str:
    """The TinyStories model."""
    return str(shared("models/stories260k"))


@pytest.fixture
def data(shared: Callable[[str], Path]) -> Path:
    """Tasks as JSON lines."""
    return shared("data/lm-eval-local")


def command(
    model: str, tasks: list[str], include: Path, output: Path, limit: int
) -> dict[str, Any]:
    """What lm-eval's own command makes of tasks."""
    words = ["run", "--model", "hf", "--model_args", f"pretrained={model}", "--device", "cpu"]
    words += ["--tasks", *tasks, "--include_path", str(include), "--limit", str(limit)]
    words += ["--batch_size", "8", "--output_path", str(output), "--log_samples"]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [file] = output.rglob("results_*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.slow
def test_figures_equal_those_of_lm_evals_own_command(
    model: str, data: Path, tmp_path: Path
) -> None:
    """Value for value, error for error, on the paper's tasks."""
    from lm_eval.tasks import TaskManager

    from atp_core.evaluation.local_tasks import local_tasks

    ours = atp_core.evaluate(model, tasks="zeroshot7", task_data=str(data), limit=6, batch_size=8)
    include = local_tasks(data, SEVEN, TaskManager()._index, tmp_path / "work")
    theirs = command(model, SEVEN, include, tmp_path / "out", limit=6)
    for task in SEVEN:
        figures = theirs["results"][task]
        for metric in ("acc", "acc_norm"):
            if f"{metric},none" not in figures:
                continue
            mine = ours.metrics[f"{task}/{metric}"]
            assert mine.value == figures[f"{metric},none"], task
            assert mine.stderr == pytest.approx(figures[f"{metric}_stderr,none"], rel=1e-12), task
        assert ours.tasks[task]["hash"] == theirs["task_hashes"][task]
        assert ours.tasks[task]["version"] == theirs["versions"][task]
    mean = sum(theirs["results"][task]["acc,none"] for task in SEVEN) / 7
    assert ours.metrics["zeroshot7/acc"].value == pytest.approx(mean, rel=1e-12)


@pytest.mark.slow
def test_every_local_set_runs(model: str, data: Path) -> None:
    """The other sets: a figure from as many documents as were asked for, errors where they are."""
    found = atp_core.evaluate(model, tasks=OTHERS, task_data=str(data), limit=5)
    for task in OTHERS:
        metric = found.metrics[f"{task}/acc"]
        assert metric.n == 5
        assert metric.value * 5 == pytest.approx(round(metric.value * 5))
        observed = found.observations[f"{task}/acc"][0]
        assert sum(observed.values) / 5 == pytest.approx(metric.value)
    assert found.metrics["lambada_openai/perplexity"].higher_is_better is False
    assert math.isfinite(found.metrics["mrpc/f1"].value)


def test_examples_before_the_question(model: str, data: Path, tmp_path: Path) -> None:
    """Few-shot examples come from TASK_train.jsonl, and from nowhere else."""
    lines = (data / "sciq.jsonl").read_text().splitlines()
    (tmp_path / "sciq.jsonl").write_text("\n".join(lines[:4]))
    with pytest.raises(DataError, match=r"sciq_train\.jsonl"):
        atp_core.evaluate(model, tasks="sciq", task_data=str(tmp_path), num_fewshot=1)
    (tmp_path / "sciq_train.jsonl").write_text("\n".join(lines[10:30]))
    found = atp_core.evaluate(model, tasks="sciq", task_data=str(tmp_path), num_fewshot=1)
    assert found.tasks["sciq"]["shots"] == 1
    assert "1-shot" in found.metrics["sciq/acc"].convention


def test_a_task_of_the_users_own(model: str, tmp_path: Path) -> None:
    (tmp_path / "colours.jsonl").write_text(
        "".join(
            json.dumps({"q": f"The {thing} is", "a": 0, "c": ["green", "loud"]}) + "\n"
            for thing in ("grass", "frog", "tree")
        )
    )
    definition = {
        "task": "colours",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(tmp_path / "colours.jsonl")},
            "cache_dir": str(tmp_path / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "doc_to_choice": "{{c}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 2.0},
    }
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(definition))
    found = atp_core.evaluate(model, tasks="colours", include_path=str(tmp_path))
    assert found.metrics["colours/acc"].n == 3
    assert found.tasks["colours"]["version"] == 2.0


# --- on the command line -------------------------------------------------------------------------


def test_json_on_stdout_and_nothing_else(
    model: str, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["eval", model, "--tasks", "copa,mrpc", "--task-data", str(data), "--limit", "4"]
    assert main([*words, "--json", "-o", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["version"] == 1
    assert {"copa/acc", "mrpc/acc", "mrpc/f1"} <= set(told["metrics"])
    assert "perplexity" not in told["metrics"], "only tasks were asked for"
    written = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert written["metrics"] == told["metrics"]
    assert written["source"] == Path(model).name, "what may be published names no folders"
    assert str(Path(model).parent) not in json.dumps(written)


def test_perplexity_and_tasks_together(
    model: str, data: Path, story_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", model, "--tasks", "copa", "--task-data", str(data), "--limit", "2"]
    assert main([*words, "--report-data", str(story_file), "--seqlen", "32", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"perplexity", "copa/acc"} <= set(told["metrics"])
    assert main([*words, "--fail-if", "copa/acc>=0"]) == 5


def test_tasks_after_pruning(
    model: str, data: Path, story_file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["prune", model, "--sparsity", "0.5", "--method", "magnitude", "--beta", "0.02"]
    words += ["--calibration", str(story_file), "--seqlen", "32", "--samples", "4"]
    words += ["--tasks", "copa,winogrande", "--task-data", str(data), "--limit", "4", "--json"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    for who in ("dense", "uniform", "pruned"):
        assert {"perplexity", "copa/acc", "winogrande/acc"} <= set(told["metrics"][who])
    pairs = {(one["metric"], one["reference"]): one for one in told["comparisons"]}
    assert pairs["perplexity", "dense"]["verdict"] in ("worse", "within noise")
    assert ("copa/acc", "uniform") in pairs


# --- interruption --------------------------------------------------------------------------------


def test_an_interrupted_evaluation_goes_on_after_the_last_task(
    model: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atp_core.evaluation.harness import Harness

    ran: list[str] = []
    run = Harness.run

    def stopping(self: Harness, name: str, lm: Any) -> Any:
        if name == "winogrande" and "winogrande" not in ran:
            ran.append(name)
            raise KeyboardInterrupt
        ran.append(name)
        return run(self, name, lm)

    monkeypatch.setattr(Harness, "run", stopping)
    settings: dict[str, Any] = {
        "tasks": ["copa", "winogrande", "piqa"], "task_data": str(data), "limit": 3,
        "output": tmp_path / "out",
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        atp_core.evaluate(model, **settings)
    with pytest.raises(UsageError, match="--resume"):
        atp_core.evaluate(model, **settings)
    with pytest.raises(UsageError, match="limit was 3 and is 4"):
        atp_core.evaluate(model, **{**settings, "limit": 4}, resume=True)
    resumed = atp_core.evaluate(model, **settings, resume=True)
    assert ran == ["copa", "winogrande", "winogrande", "piqa"], "copa was not run again"
    whole = atp_core.evaluate(model, **{**settings, "output": None})
    assert {k: m.value for k, m in resumed.metrics.items()} == {
        k: m.value for k, m in whole.metrics.items()
    }
    assert not list(tmp_path.glob(".*atp-work"))


@pytest.mark.slow
def test_memory_does_not_grow_from_task_to_task(
    model: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atp_core.evaluation.harness import Harness

    sizes: list[int] = []
    run = Harness.run

    def measured(self: Harness, name: str, lm: Any) -> Any:
        found = None
        for _ in range(4):
            found = run(self, name, lm)
            gc.collect()
            sizes.append(psutil.Process().memory_info().rss)
        return found

    monkeypatch.setattr(Harness, "run", measured)
    atp_core.evaluate(model, tasks="piqa", task_data=str(data), limit=40)
    growth = sizes[-1] - sizes[0]
    assert growth < 64 << 20, [size >> 20 for size in sizes]


# --- what is wrong is told -----------------------------------------------------------------------


def test_wrong_requests(model: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'zeroshot7'"):
        atp_core.evaluate(model, tasks=["zeroshot8"])
    with pytest.raises(UnknownNameError, match="Did you mean 'hellaswag'"):
        atp_core.evaluate(model, tasks="helaswag", task_data=str(data))
    with pytest.raises(DataError, match=r"has no boolq\.jsonl"):
        atp_core.evaluate(model, tasks="boolq", task_data=str(tmp_path))
    with pytest.raises(DataError, match="is no folder"):
        atp_core.evaluate(model, tasks="boolq", task_data=str(tmp_path / "none"))
    (tmp_path / "boolq.jsonl").write_text("not json\n")
    with pytest.raises(DataError, match="no JSON object"):
        atp_core.evaluate(model, tasks="boolq", task_data=str(tmp_path))
    with pytest.raises(DataError, match=r"'glue' is no task|no task that lm-eval defines"):
        atp_core.evaluate(model, tasks="glue", task_data=str(data))


def test_data_and_definitions_that_cannot_be_used(model: str, tmp_path: Path) -> None:
    mine, folder = tmp_path / "mine", tmp_path / "data"
    mine.mkdir()
    folder.mkdir()
    (mine / "broken.yaml").write_text("task: [unclosed\n")
    with pytest.raises(DataError, match=r"broken\.yaml is no task definition"):
        atp_core.evaluate(model, tasks=["broken"], include_path=mine)
    (folder / "piqa.jsonl").write_text('{"question": "of another task"}\n')
    with pytest.raises(DataError, match="'piqa' lack what its prompt is made of: 'goal'"):
        atp_core.evaluate(model, tasks=["piqa"], task_data=folder)


def test_without_lm_eval_the_remedy_is_told(
    model: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lm_eval", "lm_eval.evaluator"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"pip install 'atp-prune\[tasks\]'"):
        atp_core.evaluate(model, tasks="copa", task_data=str(data))


def test_a_model_without_tasks(tmp_path: Path) -> None:
    pytest.importorskip("atp_timm", reason="atp-prune-timm is not installed")
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2
    )
    with pytest.raises(UsageError, match=r"plugin 'timm'.*Leave --tasks out"):
        atp_core.evaluate(model.eval(), tasks="copa")
