"""Whole runs: the digits CLIP, a tiny one in memory, and one trained on CIFAR-10."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch

import atp_core
from atp_core.records import LoadedModel

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What ``atp prune embedded:digits-clip --json`` writes and prints."""
    directory = tmp_path_factory.mktemp("out") / "pruned"
    command = [sys.executable, "-m", "atp_core", "prune", "embedded:digits-clip"]
    options = ["--sparsity", "0.6", "--samples", "64", "--search-samples", "64",
               "--report-samples", "200", "--json", "-o", str(directory)]  # fmt: skip
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory, json.loads(done.stdout)


def test_the_digits_clip_knows_its_digits(output: tuple[Path, dict[str, Any]]) -> None:
    _, told = output
    dense, pruned = told["metrics"]["dense"]["top1"], told["metrics"]["pruned"]["top1"]
    assert dense["split"] == "report" and dense["n"] == 200
    assert dense["value"] >= 90
    assert pruned["value"] >= 30, "far above the 10 % of guessing"
    assert told["metrics"]["pruned"]["agreement"]["value"] <= 100
    assert told["metrics"]["pruned"]["kl"]["value"] > 0


def test_json_tells_of_both_towers(output: tuple[Path, dict[str, Any]]) -> None:
    _, told = output
    assert (told["plugin"], told["source"]) == ("open-clip", "embedded:digits-clip")
    assert told["sparsity_achieved"] == pytest.approx(0.6, abs=1e-4)
    assert [(chain["name"], len(chain["blocks"])) for chain in told["chains"]] == [
        ("vision", 8),
        ("text", 6),
    ]


def test_open_clip_loads_the_output(output: tuple[Path, dict[str, Any]]) -> None:
    directory, told = output
    code = (
        "import sys, open_clip, torch\n"
        f"name = 'local-dir:{directory}'\n"
        "model, _, preprocess = open_clip.create_model_and_transforms(name)\n"
        "texts = open_clip.get_tokenizer(name)(['a photo of a seven.', 'zero'])\n"
        "assert not any(module.startswith('atp') for module in sys.modules)\n"
        "assert model.encode_text(texts).shape == (2, 64)\n"
        "weight = model.visual.transformer.resblocks[7].mlp.c_fc.weight\n"
        "print(float((weight == 0).float().mean()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rate = told["chains"][0]["blocks"][7]["rate"]
    assert float(done.stdout) == pytest.approx(rate, abs=2e-3)
    assert (directory / "README.md").read_text().startswith("---")
    assert "library_name: open_clip" in (directory / "README.md").read_text()


def test_towers_with_sparsities_of_their_own(loaded: LoadedModel, colours: Path) -> None:
    model: Any = loaded.model
    result = atp_core.prune(
        model,
        processor={"tokenizer": loaded.processor.tokenizer},
        sparsity={"vision": 0.6, "text": 0.5},
        beta=0.05,
        calibration=str(colours),
        samples=16,
        search_samples=8,
    )
    for chain, target, stack in (
        ("vision", 0.6, model.visual.transformer.resblocks),
        ("text", 0.5, model.transformer.resblocks),
    ):
        blocks = [block for block in result.report.blocks if block.chain == chain]
        zeros = sum(block.zeros for block in blocks)
        assert zeros / sum(b.parameters for b in blocks) == pytest.approx(target, abs=1e-3)
        rates = [block.rate for block in blocks]
        assert rates == sorted(rates) and rates[0] < rates[-1]
        fused = float((stack[0].attn.in_proj_weight == 0).float().mean())
        assert fused == pytest.approx(rates[0], abs=2e-3)


def test_chains_may_be_left_out(directory: Path, colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = atp_core.prune(
        directory, sparsity=0.5, chains=["text"], beta=0.0, output=out, calibration=str(colours),
        report_data=str(colours), samples=8, search_samples=4,
    )  # fmt: skip
    assert {block.chain for block in result.report.blocks} == {"text"}
    before, after = (
        safetensors.torch.load_file(folder / "open_clip_model.safetensors")
        for folder in (directory, out)
    )
    for name, dense in before.items():
        same = torch.equal(dense, after[name])
        pruned = "transformer.resblocks" in name and not name.startswith("visual")
        assert same or (pruned and "weight" in name), name
    model = open_clip.create_model(f"local-dir:{out}")
    assert float((model.transformer.resblocks[0].mlp.c_fc.weight == 0).float().mean()) == 0.5


@pytest.mark.slow
def test_vit_b_32_at_its_true_size(tmp_path: Path) -> None:
    """Random weights, pruned by magnitude, saved, and loaded by open_clip with equal outputs."""
    out = tmp_path / "out"
    result = atp_core.prune(
        "open_clip:ViT-B-32@random", sparsity={"vision": 0.7, "text": 0.6}, method="magnitude",
        beta={"vision": 0.03, "text": 0.02}, baseline=False, output=out,
    )  # fmt: skip
    blocks = result.report.blocks
    for chain, width, target in (("vision", 768, 0.7), ("text", 512, 0.6)):
        own = [block for block in blocks if block.chain == chain]
        assert len(own) == 12
        assert {block.parameters for block in own} == {12 * width**2}
        share = sum(block.zeros for block in own) / sum(block.parameters for block in own)
        assert share == pytest.approx(target, abs=1e-4)
    model = open_clip.create_model(f"local-dir:{out}").eval()
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    text = torch.randint(1, 40000, (1, 77), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for loaded, pruned in zip(model(image, text), result.model(image, text), strict=True):
            assert torch.equal(loaded, pruned)


def test_a_trained_model_on_real_images(shared: Callable[[str], Path]) -> None:
    """CIFAR-10: 59.3 % of its test images before pruning, by its maker's own measurement."""
    model, images = shared("models/clip-cifar10"), shared("data/cifar10-jpeg")
    result = atp_core.prune(
        model, sparsity=0.4, beta=0.0, calibration=str(images / "train"),
        report_data=str(images / "test"), samples=32, search_samples=16, report_samples=200,
    )  # fmt: skip
    dense = result.metrics["dense"]["top1"]
    pruned = result.metrics["pruned"]["top1"]
    assert dense.n == 200
    assert 45 < dense.value < 72
    assert pruned.value > 25
    assert result.sparsity == pytest.approx(0.4, abs=1e-4)
