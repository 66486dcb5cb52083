"""Bad input ends with one clear message, its exit code, and nothing half-written."""

from __future__ import annotations

import errno
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

from atp_core.cli import main

SIZE = ["--samples", "8", "--search-samples", "4", "--seqlen", "32", "--report-samples", "16"]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs `atp prune` and returns its one error message."""

    def run(source: Any, *options: str, code: int, resumable: bool = False) -> str:
        capsys.readouterr()
        out = tmp_path / "out"
        before = set(tmp_path.rglob("*"))
        words = ["prune", str(source), *SIZE, "-o", str(out), *options]
        if "--sparsity" not in options:
            words += ["--sparsity", "0.5"]
        assert main(words) == code
        told = capsys.readouterr()
        assert told.out == ""
        messages = [line for line in told.err.splitlines() if line.startswith(("error:", "Error:"))]
        assert len(messages) == 1, told.err
        assert "Traceback" not in told.err
        after = set(tmp_path.rglob("*"))
        journal = {out.parent / ".out.atp-work", out.parent / ".out.atp-work/journal.jsonl"}
        assert after == before | (journal if resumable else set()), "nothing else is written"
        return messages[0] + told.err.split(messages[0])[1]

    return run


@pytest.mark.parametrize("value", ["-0.1", "1", "1.5", "70", "nan"])
def test_sparsity_outside_its_range(fails: Any, llama_directory: Path, value: str) -> None:
    told = fails(llama_directory, "--sparsity", value, code=2)
    assert "[0, 1)" in told


def test_sparsity_that_is_no_number(
    llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", str(llama_directory), "--sparsity", "much", "-o", "out"]) == 2
    assert "neither a rate" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0.61", "-0.01", "inf"])
def test_beta_outside_its_range(fails: Any, llama_directory: Path, value: str) -> None:
    (llama_directory / "model.safetensors").unlink()  # refused before weights are looked for
    told = fails(llama_directory, "--sparsity", "0.7", f"--beta={value}", code=2)
    assert "[0, 0.6]" in told or "finite" in told


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--method", "wandb"], "Did you mean 'wanda'"),
        (["--allocation", "apt"], "Did you mean 'atp'"),
        (["--plugin", "lm"], "Did you mean 'llm'"),
        (["--chains", "decodr"], "Did you mean 'decoder'"),
        (["--objective", "perplexty"], "Did you mean 'perplexity'"),
        (["--device", "cudda"], "--device"),
    ],
)
def test_unknown_names(
    fails: Any, llama_directory: Path, options: list[str], wanted: str
) -> None:
    assert wanted in fails(llama_directory, *options, code=2)


@pytest.mark.parametrize("options", [["--beta", "0.1"], ["--beta-step", "0.1"], ["--beta=auto"]])
def test_settings_without_effect(fails: Any, llama_directory: Path, options: list[str]) -> None:
    told = fails(llama_directory, "--allocation", "uniform", *options, code=2)
    assert "has no β" in told


def test_a_schedule_for_another_sparsity(
    fails: Any, llama_directory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "schedule.json"
    rates = {"decoder": {"model.layers.0": 0.5, "model.layers.1": 0.7}}
    path.write_text(json.dumps({"allocation": "atp", "sparsity": 0.6, "rates": rates}))
    told = fails(llama_directory, "--sparsity", "0.5", "--schedule", str(path), code=2)
    assert "cut 0.6" in told
    given = ["--sparsity", "0.6", "--schedule", str(path)]
    told = fails(llama_directory, *given, "--beta=0.1", code=2)
    assert "--beta" in told


def test_unknown_source(fails: Any) -> None:
    assert "no plugin handles" in fails("no-such-model:thing", code=4)
    assert "smollm2-135m" in fails("embedded:smollm2-13b", code=2)


def test_unknown_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prun"]) == 2
    assert "Did you mean 'prune'" in capsys.readouterr().err
    assert main(["prune", "x", "--sparsty", "0.5"]) == 2
    assert "--sparsity" in capsys.readouterr().err


def test_nothing_to_prune_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune"]) == 2
    assert main(["prune", "embedded:smollm2-135m"]) == 2
    assert main(["prune", "embedded:smollm2-135m", "--sparsity", "0.5"]) == 2
    told = capsys.readouterr().err
    assert "SOURCE" in told and "--sparsity" in told and "-o DIR" in told


def test_a_directory_without_weights(fails: Any, llama_directory: Path) -> None:
    (llama_directory / "model.safetensors").unlink()
    assert "llama" in fails(llama_directory, code=4)


def test_an_empty_directory(fails: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in fails(empty, code=4)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_safetensors(fails: Any, llama_directory: Path, keep: float) -> None:
    path = llama_directory / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    assert "model.safetensors" in fails(llama_directory, code=4)


def test_corrupt_safetensors(fails: Any, llama_directory: Path) -> None:
    path = llama_directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8:40] = b"\xff" * 32
    path.write_bytes(bytes(data))
    assert "model.safetensors" in fails(llama_directory, code=4)


@pytest.mark.parametrize("data", [b"", b"GGUF", b"GGUF" + b"\x03\0\0\0" + b"\xff" * 64])
def test_corrupt_gguf(fails: Any, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    assert "model.gguf" in fails(path, code=4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(fails: Any, llama_directory: Path, value: float) -> None:
    path = llama_directory / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = value
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    told = fails(llama_directory, code=4)
    assert "model.layers.1" in told or "not a number" in told


def test_activations_that_are_not_finite(fails: Any, llama_directory: Path) -> None:
    path = llama_directory / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    for name, value in (("gate", 1e5), ("up", 1e5), ("down", 3e38)):
        weights[f"model.layers.0.mlp.{name}_proj.weight"].abs_().mul_(value / 0.02)
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    told = fails(llama_directory, code=4)
    assert "model.layers" in told or "not a number" in told


def test_text_shorter_than_a_window(fails: Any, llama_directory: Path, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("A few words.\n\nAnd a few more.")
    told = fails(llama_directory, "--calibration", str(text), code=4)
    assert "tokens" in told and "--seqlen" in told
    told = fails(llama_directory, "--report-data", str(text), code=4)
    assert "tokens" in told


def test_data_that_is_not_there(fails: Any, llama_directory: Path) -> None:
    assert "none.txt" in fails(llama_directory, "--calibration", "none.txt", code=4)


def test_an_output_that_is_not_ours(
    fails: Any, llama_directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert "atp did not write it" in fails(llama_directory, "--overwrite", code=2)
    assert (out / "thesis.tex").read_text() == "years of work"


def test_an_earlier_output_is_kept_unless_told(
    fails: Any, llama_directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["prune", str(llama_directory), "--sparsity", "0.5", *SIZE, "-o", str(out)]
    assert main([*words, "--beta", "0"]) == 0
    assert "--overwrite" in fails(llama_directory, code=2)
    assert main([*words, "--beta", "0.1", "--overwrite"]) == 0
    assert json.loads((out / "atp.json").read_text())["schedule"]["beta"] == 0.1


def test_a_disk_that_fills_while_writing(
    fails: Any, llama_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import atp_llm._save

    def full(loaded: Any, directory: Path) -> Any:
        (directory / "half.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))

    monkeypatch.setattr(atp_llm._save, "save", full)
    told = fails(llama_directory, code=4, resumable=True)
    assert "disk filled up" in told


def test_a_recipe_with_a_misspelt_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("source: x\nsparsty: 0.5\n")
    assert main(["prune", "--recipe", str(path)]) == 2
    told = capsys.readouterr().err
    assert "sparsity" in told and "recipe.yaml" in told


def test_a_gate_of_the_wrong_form(
    llama_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", str(llama_directory), "--sparsity", "0.5", "-o", "x"]
    assert main([*words, "--fail-if", "perplexity=30"]) == 2
    assert "--fail-if" in capsys.readouterr().err


def test_an_interrupt_leaves_the_journal_and_nothing_else(
    tmp_path: Path, tiny_llama: Callable[..., Any], byte_tokenizer: Callable[[], Any]
) -> None:
    model = tmp_path / "model"
    tiny_llama(num_hidden_layers=8, hidden_size=32).save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    journal = tmp_path / ".out.atp-work" / "journal.jsonl"
    command = [sys.executable, "-m", "atp_core", "prune", str(model), "--sparsity", "0.6"]
    command += ["--samples", "96", "--search-samples", "48", "--seqlen", "64"]
    command += ["--beta-step", "0.002"]  # far more trials than it will come to
    with subprocess.Popen(
        [*command, "-o", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, they and their children ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if journal.exists() and len(journal.read_text().splitlines()) > 2:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
    assert process.returncode == 130
    assert "interrupted" in told and "--resume" in told and "Traceback" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.atp-work", "model"]
    assert torch.__version__
