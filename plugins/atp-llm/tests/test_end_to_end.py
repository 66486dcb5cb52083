"""Whole runs on tiny random models: outputs, the Python API, kills and resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
import yaml

import atp_core
from atp_core.cli import main
from atp_core.errors import DataError, UsageError

SETTINGS = ["--sparsity", "0.6", "--samples", "16", "--search-samples", "8", "--seqlen", "32"]
REPORT = ["--seqlen", "32", "--report-samples", "64"]
SETTINGS += ["--report-samples", "64"]
DATA = {"samples": 16, "search_samples": 8, "seqlen": 32, "report_samples": 32}


@pytest.fixture(scope="module")
def deep(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_llama: Callable[..., Any],
    byte_tokenizer: Callable[[], Any],
) -> Path:
    """A random Llama of eight blocks."""
    directory = tmp_path_factory.mktemp("models") / "deep"
    tiny_llama(num_hidden_layers=8, hidden_size=32, tie_word_embeddings=True).save_pretrained(
        directory
    )
    byte_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def output(deep: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What `atp prune --json` writes and prints."""
    directory = tmp_path_factory.mktemp("out") / "pruned"
    done = subprocess.run(
        [sys.executable, "-m", "atp_core", "prune", deep, *SETTINGS, "--json", "-o", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory, json.loads(done.stdout)


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(directory / "model.safetensors")


def test_json_has_the_promised_keys(output: tuple[Path, dict[str, Any]], deep: Path) -> None:
    directory, told = output
    assert told["source"] == str(deep)
    assert (told["plugin"], told["method"], told["allocation"]) == ("llm", "wanda", "atp")
    assert told["sparsity_target"] == 0.6
    assert told["sparsity_achieved"] == pytest.approx(0.6, abs=1e-4)
    assert 0.0 <= told["beta"] <= told["beta_limit"]
    [chain] = told["chains"]
    assert len(chain["blocks"]) == 8
    for block in chain["blocks"]:
        assert block["achieved"] == pytest.approx(block["rate"], abs=1e-3)
        assert {"name", "rate", "achieved", "parameters"} <= block.keys()
    assert any(trial["beta"] == 0.0 for trial in told["trials"])
    assert all({"beta", "objective", "seconds"} <= trial.keys() for trial in told["trials"])
    assert {"dense", "uniform", "pruned"} == told["metrics"].keys()
    assert told["metrics"]["dense"]["perplexity"]["split"] == "report"
    assert told["seconds"] > 0 and told["peak_memory_bytes"] > 0
    assert told["output"] == str(directory)


def test_the_chosen_beta_is_no_worse_than_uniform(output: tuple[Path, dict[str, Any]]) -> None:
    _, told = output
    final = {t["beta"]: t["objective"] for t in told["trials"] if t["stage"] == "final"}
    assert final[told["beta"]] == min(final.values())
    assert 0.0 in final or told["beta"] == 0.0


def test_output_loads_without_us(output: tuple[Path, dict[str, Any]], deep: Path) -> None:
    directory, told = output
    code = (
        "import sys, transformers\n"
        f"model = transformers.AutoModelForCausalLM.from_pretrained({str(directory)!r})\n"
        f"transformers.AutoTokenizer.from_pretrained({str(directory)!r})\n"
        "weight = model.model.layers[7].mlp.up_proj.weight\n"
        "assert not any(name.startswith('atp') for name in sys.modules)\n"
        "print(float((weight == 0).float().mean()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rate = told["chains"][0]["blocks"][7]["rate"]
    assert float(done.stdout) == pytest.approx(rate, abs=2e-3)
    dense = weights_of(deep)
    for name, pruned in weights_of(directory).items():
        kept = pruned != 0
        assert torch.equal(pruned[kept], dense[name][kept]), f"{name}: kept weights are untouched"
        if "layers" not in name or "norm" in name:
            assert torch.equal(pruned, dense[name]), f"{name} stays dense"


def test_output_tells_what_it_is(output: tuple[Path, dict[str, Any]]) -> None:
    directory, told = output
    names = {path.name for path in directory.iterdir()}
    assert {"atp.json", "README.md", "recipe.yaml", "rates.png", "objective.png"} <= names
    assert not any("pickle" in name or name.endswith((".bin", ".pt")) for name in names)
    sidecar = json.loads((directory / "atp.json").read_text())
    assert sidecar["schedule"]["beta"] == told["beta"]
    assert sidecar["provenance"]["calibration"]["samples"] == 16
    card = (directory / "README.md").read_text()
    assert "perplexity" in card and "dense zeros" in card
    leftovers = [p.name for p in directory.parent.iterdir() if p != directory]
    assert leftovers == [], "journal and temporary directories are gone"


def test_the_recipe_repeats_the_run(output: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    directory, _ = output
    again = tmp_path / "again"
    recipe = directory / "recipe.yaml"
    assert yaml.safe_load(recipe.read_text())["sparsity"] == 0.6
    assert main(["prune", "--recipe", str(recipe), "-o", str(again)]) == 0
    first, second = weights_of(directory), weights_of(again)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_schedule_is_reused_for_another_method(
    output: tuple[Path, dict[str, Any]], deep: Path, tmp_path: Path
) -> None:
    directory, told = output
    result = atp_core.prune(
        deep, sparsity=0.6, method="magnitude", schedule=directory / "atp.json",
        output=tmp_path / "other", **DATA,
    )  # fmt: skip
    rates = [block.rate for block in result.report.blocks]
    assert rates == [block["rate"] for block in told["chains"][0]["blocks"]]
    assert not result.search.trials


def test_inspect_and_eval_read_an_output(
    output: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    directory, told = output
    assert main(["inspect", str(directory), "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)
    assert inspected["sparsity"] == pytest.approx(told["sparsity_achieved"], abs=1e-9)
    assert main(["eval", str(directory), *REPORT, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["metrics"]["perplexity"]["value"]
    assert measured == pytest.approx(told["metrics"]["pruned"]["perplexity"]["value"], rel=1e-6)
    assert main(["eval", str(directory), *REPORT, "--fail-if", "perplexity>2"]) == 5
    assert "quality gate missed" in capsys.readouterr().err


def test_search_writes_a_schedule_and_no_model(deep: Path, tmp_path: Path) -> None:
    out = tmp_path / "schedule"
    assert main(["search", str(deep), *SETTINGS, "-o", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert {"schedule.json", "trials.jsonl", "atp.json", "rates.png"} <= names
    assert not any(name.endswith(".safetensors") for name in names)
    schedule = json.loads((out / "schedule.json").read_text())
    assert set(schedule["rates"]["decoder"]) == {f"model.layers.{i}" for i in range(8)}


LONGER = ("--sparsity", "0.6", "--samples", "96", "--search-samples", "48", "--seqlen", "64",
          "--report-samples", "96")  # fmt: skip


def command(deep: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "atp_core", "prune", str(deep), *LONGER, *more, "-o", str(out)]


@pytest.fixture(scope="module")
def unbroken(deep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "out"
    subprocess.run(command(deep, out), check=True, capture_output=True)
    return out


class TestKilled:
    """A run killed at any point and resumed gives what an unbroken run gives."""

    @pytest.mark.parametrize("results", [1, 4, 7], ids=lambda n: f"after-{n}-results")
    def test_resuming(self, deep: Path, unbroken: Path, tmp_path: Path, results: int) -> None:
        out = tmp_path / "out"
        journal = tmp_path / ".out.atp-work" / "journal.jsonl"
        with subprocess.Popen(
            command(deep, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            deadline = time.monotonic() + 240
            while time.monotonic() < deadline and process.poll() is None:
                if journal.exists() and len(journal.read_text().splitlines()) > results:
                    break
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, "the run was killed, not done"
        assert not out.exists(), "nothing half-written"
        entries = len(journal.read_text().splitlines()) - 1

        refused = subprocess.run(command(deep, out), capture_output=True, text=True)
        assert refused.returncode == 2 and "--resume" in refused.stderr

        done = subprocess.run(
            command(deep, out, "--resume", "--json"), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        schedules = [
            json.loads((directory / "atp.json").read_text())["schedule"]
            for directory in (out, unbroken)
        ]
        assert schedules[0] == schedules[1]
        mine, theirs = weights_of(out), weights_of(unbroken)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
        assert entries >= results
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]

    def test_another_command_is_not_resumed(self, deep: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        work = tmp_path / ".out.atp-work"
        work.mkdir()
        identity = {"version": 1, "identity": {"sparsity": 0.5}}
        (work / "journal.jsonl").write_text(json.dumps(identity) + "\n")
        code = main(["prune", str(deep), *LONGER, "-o", str(out), "--resume"])
        assert code == 2
        assert not out.exists()


class TestPython:
    """The API on models in memory."""

    def test_a_model_in_memory_is_pruned_in_place(
        self, tiny_llama: Callable[..., Any], byte_tokenizer: Callable[[], Any]
    ) -> None:
        model = tiny_llama(num_hidden_layers=4)
        result = atp_core.prune(
            model, processor=byte_tokenizer(), sparsity=0.5, beta=0.05, **DATA
        )
        assert result.model is model
        assert result.output is None
        zeros = float((model.model.layers[0].mlp.up_proj.weight == 0).float().mean())
        assert zeros == pytest.approx(result.report.blocks[0].rate, abs=2e-3)
        assert result.beta == 0.05

    def test_search_leaves_the_model_as_it_was(
        self, tiny_llama: Callable[..., Any], byte_tokenizer: Callable[[], Any]
    ) -> None:
        model = tiny_llama(num_hidden_layers=4)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        result = atp_core.search(model, processor=byte_tokenizer(), sparsity=0.5, **DATA)
        assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
        assert {trial.beta for trial in result.trials} >= {0.0}

    def test_beta_auto_is_measured_and_judged(
        self, tiny_llama: Callable[..., Any], byte_tokenizer: Callable[[], Any]
    ) -> None:
        model = tiny_llama(num_hidden_layers=4)
        result = atp_core.search(
            model, processor=byte_tokenizer(), sparsity=0.5, beta="auto", **DATA
        )
        auto = result.beta_auto
        assert auto is not None
        assert auto["growth"]["decoder"] > 0 and auto["slope"]["decoder"] > 0
        assert len(auto["blocks"]) == 4
        assert 0.0 <= auto["beta"] <= result.beta_limit
        assert {trial.beta for trial in result.trials} == {0.0, auto["beta"]}

    @pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_every_method_meets_the_budget(
        self,
        tiny_llama: Callable[..., Any],
        byte_tokenizer: Callable[[], Any],
        method: str,
        dtype: str,
    ) -> None:
        model = tiny_llama(num_hidden_layers=3).to(getattr(torch, dtype))
        result = atp_core.prune(
            model, processor=byte_tokenizer(), sparsity=0.7, method=method, beta=0.1,
            baseline=False, **DATA,
        )  # fmt: skip
        assert result.sparsity == pytest.approx(0.7, abs=1e-4)
        assert model.dtype == getattr(torch, dtype)

    def test_experts_are_pruned(
        self, tiny_mixtral: Callable[..., Any], byte_tokenizer: Callable[[], Any]
    ) -> None:
        model = tiny_mixtral()
        result = atp_core.prune(
            model, processor=byte_tokenizer(), sparsity=0.5, beta=0.0, baseline=False, **DATA
        )
        assert result.sparsity == pytest.approx(0.5, abs=1e-3)
        fused = model.model.layers[0].mlp.experts.gate_up_proj
        assert float((fused == 0).float().mean()) == pytest.approx(0.5, abs=2e-3)
        assert not (model.model.layers[0].mlp.gate.weight == 0).any()

    def test_encoder_and_decoder_are_two_chains(
        self, tiny_t5: Callable[..., Any], byte_tokenizer: Callable[[], Any]
    ) -> None:
        model = tiny_t5()
        result = atp_core.prune(
            model, processor=byte_tokenizer(), sparsity={"encoder": 0.3, "decoder": 0.6},
            beta=0.0, **DATA,
        )  # fmt: skip
        achieved = {block.chain: block.achieved for block in result.report.blocks}
        assert achieved["encoder"] == pytest.approx(0.3, abs=2e-3)
        assert achieved["decoder"] == pytest.approx(0.6, abs=2e-3)

    def test_report_data_must_not_be_calibration_data(
        self, llama_directory: Path, story_file: Path
    ) -> None:
        copy = story_file.with_name("copy.jsonl")
        copy.write_bytes(story_file.read_bytes())
        with pytest.raises(DataError, match="are in the"):
            atp_core.prune(
                llama_directory, sparsity=0.5, calibration=str(story_file),
                report_data=str(copy), samples=8, search_samples=4, seqlen=32,
            )  # fmt: skip

    def test_a_schedule_of_another_model_is_refused(
        self, llama_directory: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "schedule.json"
        rates = {"decoder": {"model.layers.0": 0.5, "model.layers.9": 0.5}}
        path.write_text(
            json.dumps({"allocation": "atp", "sparsity": 0.5, "beta": None, "rates": rates})
        )
        with pytest.raises(UsageError, match="made for another model"):
            atp_core.prune(llama_directory, sparsity=0.5, schedule=path, **DATA)

    def test_plan_loads_no_weights(self, llama_directory: Path) -> None:
        (llama_directory / "model.safetensors").unlink()
        plan = atp_core.plan(llama_directory, sparsity=0.7)
        assert [len(chain.blocks) for chain in plan.chains] == [2]
        assert plan.beta_limit == pytest.approx(0.6)
        assert plan.trials[0] == 0.0
        assert plan.memory_bytes > 0 and plan.seconds is not None


def test_threads_do_not_matter_for_the_same_seed(deep: Path, tmp_path: Path) -> None:
    """Two processes, the same bits."""
    outs = []
    for name in ("a", "b"):
        out = tmp_path / name
        command = [sys.executable, "-m", "atp_core", "prune", str(deep), *SETTINGS]
        command += ["--beta", "0.02", "--no-baseline", "--method", "sparsegpt", "-o", str(out)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ})
        outs.append(weights_of(out))
    assert all(torch.equal(outs[0][name], outs[1][name]) for name in outs[0])
    assert transformers.__version__


def test_sessions_on_one_model_know_of_each_other(
    tiny_llama: Callable[..., Any], byte_tokenizer: Callable[[], Any]
) -> None:
    """What one session pruned is not taken for dense by the next."""
    from atp_core._session import Session
    from atp_core._workflow import Pruning
    from atp_core.recipe import Recipe
    from atp_core.records import Source
    from atp_core.trials.journal import Journal

    model = tiny_llama(num_hidden_layers=4)
    source = Source("tiny", model, byte_tokenizer())
    recipes = [
        Recipe.make({"source": "tiny", "sparsity": sparsity, **DATA}) for sparsity in (0.8, 0.4)
    ]
    first = Session(recipes[0], source)
    first.prune(first.allocate(first.allocator(), first.chains, beta=0.1), first.method(), "x")
    second = first.again(recipes[1])
    assert second.snapshot is first.snapshot
    measured = Pruning(second, Journal(None, {})).measure()
    assert all(block["lower"] > 0 for block in measured["blocks"])
    second.prune(second.allocate(second.allocator(), second.chains, beta=0.0), second.method(), "y")
    zeros = float((model.model.layers[3].mlp.up_proj.weight == 0).float().mean())
    assert zeros == pytest.approx(0.4, abs=2e-3)
    first.restore()
    assert not (model.model.layers[3].mlp.up_proj.weight == 0).any()
