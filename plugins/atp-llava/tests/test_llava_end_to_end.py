"""Whole runs: the embedded model, one trained on CIFAR-10, and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import atp_core
import atp_llava
from atp_core.cli import main
from atp_core.digits import folder
from atp_core.records import DataRequest, LoadedModel, LoadRequest, Source

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file


# --- the embedded model -------------------------------------------------------------------------


def test_the_digits_model_has_learnt_every_kind_of_question(
    digits: LoadedModel, tmp_path: Path
) -> None:
    lines = (folder() / "questions-report.jsonl").read_text().splitlines()
    by_category: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        record = json.loads(line)
        record["image"] = str(folder() / record["image"])
        by_category.setdefault(record["category"], []).append(record)
    assert set(by_category) == {"class", "existence", "parity", "size"}
    for category, records in by_category.items():
        file = tmp_path / f"{category}.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records[:100]))
        data = DataRequest(report=str(file))
        [accuracy] = atp_llava.atp_evaluate(digits, data, "report", ["accuracy"]).metrics
        assert accuracy.n == 100
        assert accuracy.value >= 85, category


def test_the_digits_bring_their_own_data(digits: LoadedModel) -> None:
    data = DataRequest(samples=16, search_samples=16, report_samples=48)
    calibration = atp_llava.atp_calibrate(digits, data)
    assert calibration.dataset == "questions-calibration.jsonl, calibration part"
    assert calibration.samples == 16
    report = atp_llava.atp_evaluate(digits, data, "report", None)
    assert report.metrics[0].dataset == "questions-report.jsonl, 48 of 1600 questions"
    assert report.metric("exact_match").value > 70
    assert report.metric("pope_accuracy").value > 70
    assert not calibration.examples & report.examples
    assert [len(chain.blocks) for chain in atp_llava.atp_locate(digits)] == [3, 8]
    assert json.loads((_directory() / "config.json").read_text())["model_type"] == "llava"


def _directory() -> Path:
    from atp_llava._digits import directory

    return directory()


@pytest.fixture(scope="module")
def pruned(
    digits: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """What `atp prune embedded:digits-llava --json` writes and prints."""
    directory = tmp_path_factory.mktemp("digits") / "out"
    words = ["embedded:digits-llava", "--sparsity", "0.5"]
    words += ["--samples", "24", "--search-samples", "32", "--report-samples", "64"]
    done = subprocess.run(
        [sys.executable, "-m", "atp_core", "prune", *words, "--json", "-o", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory, json.loads(done.stdout)


def test_pruning_the_digits(pruned: tuple[Path, dict[str, Any]]) -> None:
    directory, told = pruned
    assert (told["plugin"], told["sparsity_target"]) == ("llava", 0.5)
    assert told["sparsity_achieved"] == pytest.approx(0.5, abs=1e-3)
    [chain] = told["chains"]
    assert (chain["name"], len(chain["blocks"])) == ("language", 8)
    dense, after = told["metrics"]["dense"], told["metrics"]["pruned"]
    assert dense["answer_loss"]["split"] == "report"
    assert after["answer_loss"]["value"] >= dense["answer_loss"]["value"] - 0.05
    assert {"accuracy", "exact_match", "pope_f1"} <= after.keys()
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    source = safetensors.torch.load_file(_directory() / "model.safetensors")
    assert tensors.keys() == source.keys()
    for name, tensor in tensors.items():
        zeros = float((tensor == 0).float().mean())
        if name.startswith("language_model.") and ".layers." in name and "norm" not in name:
            assert zeros > 0.2, name
        else:
            assert torch.equal(tensor, source[name]), name


def test_the_output_loads_without_us(pruned: tuple[Path, dict[str, Any]]) -> None:
    directory, told = pruned
    image = next((folder() / "report" / "seven").glob("*.png"))
    code = (
        "import sys, torch, transformers\n"
        "from PIL import Image\n"
        f"model = transformers.AutoModelForImageTextToText.from_pretrained({str(directory)!r})\n"
        f"processor = transformers.AutoProcessor.from_pretrained({str(directory)!r})\n"
        "text = processor.apply_chat_template([{'role': 'user', 'content': [{'type': 'image'},\n"
        "    {'type': 'text', 'text': 'which digit is this ?'}]}], add_generation_prompt=True)\n"
        f"image = Image.open({str(image)!r}).convert('RGB')\n"
        "inputs = processor(text=[text], images=[image], return_tensors='pt')\n"
        "out = model.generate(**inputs, max_new_tokens=2)\n"
        "print(processor.tokenizer.decode(out[0, inputs['input_ids'].shape[1]:]))\n"
        "assert not any(name.startswith('atp') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()
    card = (directory / "README.md").read_text()
    assert "pipeline_tag: image-text-to-text" in card
    again = atp_llava.atp_load(Source(str(directory)), LoadRequest())
    data = DataRequest(report=str(folder() / "questions-report.jsonl"), report_samples=64)
    figure = atp_llava.atp_evaluate(again, data, "report", ["answer_loss"]).metrics[0]
    measured = told["metrics"]["pruned"]["answer_loss"]["value"]
    assert figure.value == pytest.approx(measured, rel=1e-5)


def test_both_chains_where_they_are_asked_for(digits: LoadedModel, tmp_path: Path) -> None:
    result = atp_core.prune(
        "embedded:digits-llava",
        sparsity={"vision": 0.3, "language": 0.5},
        beta=0.02,
        samples=16,
        search_samples=8,
        report_samples=16,
        output=tmp_path / "out",
    )
    assert list(result.schedule.rates) == ["vision", "language"]
    tensors = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    tower = [t for name, t in tensors.items() if "vision_tower.encoder.layers" in name]
    zeros = sum(int((t == 0).sum()) for t in tower if t.dim() == 2)
    size = sum(t.numel() for t in tower if t.dim() == 2)
    # Three of four blocks are pruned: the output of the last one is not read.
    assert zeros / size == pytest.approx(0.3 * 3 / 4, abs=5e-3)


# --- a model trained on CIFAR-10 ------------------------------------------------------------------


def test_llava_of_cifar10(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """Loaded, measured with the prompt it was trained with, pruned and saved."""
    model = shared("models/llava-cifar10")
    images = shared("data/cifar10-jpeg")
    lines = (model / "questions_test.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    names = sorted({record["class"] for record in records})
    asked = []
    for record in records:
        # Test images are counted class by class, 1000 each, of which 300 are here.
        place = record["test_index"] - 1000 * names.index(record["class"])
        file = images / "test" / record["class"] / f"{place:04d}.jpg"
        if file.is_file():
            fields = {key: record[key] for key in ("question", "answer", "kind")}
            asked.append({"image": str(file), **fields})
    asked = asked[:: len(asked) // 100]
    half = len(asked) // 2
    seen = {record["image"] for record in asked[:half]}
    rest = [record for record in asked[half:] if record["image"] not in seen]
    for name, part in (("calibration", asked[:half]), ("report", rest)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in part))
    template = tmp_path / "template.txt"
    template.write_text("<s> user : <image> {} assistant :\n")
    out = tmp_path / "out"
    words = ["prune", str(model), "--sparsity", "0.5", "--beta", "0.02"]
    words += ["--templates", str(template)]
    words += ["--calibration", str(tmp_path / "calibration.jsonl"), "--samples", "16"]
    words += ["--search-samples", "8", "--report-data", str(tmp_path / "report.jsonl")]
    assert main([*words, "-o", str(out)]) == 0
    told = json.loads((out / "atp.json").read_text())
    dense = {metric: value for metric, value in _figures(told, "dense").items()}
    assert dense["exact_match"] > 55
    assert dense["accuracy"] > 55
    assert dense["answer_loss"] < 1.2
    kept = safetensors.torch.load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float16}


def _figures(told: dict[str, Any], which: str) -> dict[str, float]:
    return {name: float(metric["value"]) for name, metric in told["metrics"][which].items()}
