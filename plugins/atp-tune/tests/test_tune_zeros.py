"""Whatever is trained, and however hard: a zero stays a zero, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import atp_core
import atp_tune

HARD: dict[str, Any] = {"steps": 4, "lr": 0.05, "weight_decay": 0.5, "batch": 4}
"""A rate and a decay that move every weight that can move."""


@pytest.fixture
def data(text: Path, digit_images: Path, pairs: Path) -> dict[str, dict[str, Any]]:
    """Model → what it is trained on."""
    return {
        "stories": {"calibration": str(text), "seqlen": 32},
        "digits": {"calibration": str(digit_images)},
        "clip": {"calibration": str(pairs)},
    }


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("model", ["stories", "digits", "clip"])
def test_zeros_are_kept_and_weights_are_trained(
    model: str,
    mode: Any,
    data: dict[str, dict[str, Any]],
    tensors: Callable[[Path], dict[str, Any]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    source: Path = request.getfixturevalue(model)
    result = atp_tune.tune(source, output=tmp_path / "out", mode=mode, **HARD, **data[model])
    before, after = tensors(source), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    pruned = changed = 0
    for name, old in before.items():
        new = after[name]
        assert new.dtype == old.dtype and new.shape == old.shape
        # Nothing but prunable weights is trained, and of them all that were not zero.
        if not bool(((old == 0) & (new != 0)).any()) and bool((new != old).any()):
            changed += 1
            assert int((old == 0).sum()) > 0.5 * old.numel(), f"{name} was not pruned"
        assert not bool(((old == 0) & (new != 0)).any()), name
        pruned += int(old.dim() > 1 and int((old == 0).sum()) > 0.5 * old.numel())
    assert changed == pruned > 0
    assert result.sparsity == pytest.approx(0.6, abs=0.01)
    assert result.sparsity >= result.sparsity_before
    inspected = atp_core.inspect(str(tmp_path / "out"))
    zeros = sum(inspected.zeros.values())
    assert zeros / sum(c.parameters for c in inspected.chains) == pytest.approx(result.sparsity)


def test_biases_and_norms_are_trained_where_asked_for(
    digits: Path,
    digit_images: Path,
    tensors: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    before = tensors(digits)
    for option in ("biases", "norms"):
        output = tmp_path / option
        given: dict[str, Any] = {option: True, "calibration": str(digit_images)}
        atp_tune.tune(digits, output=output, **HARD, **given)
        after = tensors(output)
        moved = {name for name, old in before.items() if bool((after[name] != old).any())}
        dense = {name for name in moved if before[name].dim() == 1}
        is_norm = {name for name in dense if "norm" in name}
        assert dense and is_norm == (dense if option == "norms" else set())


def test_half_precision_is_trained_in_full_and_saved_in_half(
    stories: Path, text: Path, tensors: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    import torch
    import transformers

    half = tmp_path / "half"
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(stories, dtype=torch.bfloat16)
    model.save_pretrained(half)
    transformers.AutoTokenizer.from_pretrained(stories).save_pretrained(half)
    before = tensors(half)
    for mode in ("lora", "full"):
        # Steps of a few millionths are below what a bfloat16 weight can tell, unless they add up.
        given: dict[str, Any] = {"mode": mode, "steps": 30, "lr": 2e-4, "batch": 2, "seqlen": 32}
        atp_tune.tune(half, output=tmp_path / mode, calibration=str(text), **given)
        after = tensors(tmp_path / mode)
        assert {one.dtype for one in after.values()} == {torch.bfloat16}
        assert all(not bool(((old == 0) & (after[n] != 0)).any()) for n, old in before.items())
        assert any(bool((old != after[n]).any()) for n, old in before.items())


def test_the_output_tells_how_it_was_made(stories: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = atp_tune.tune(
        stories,
        output=output,
        steps=2,
        batch=2,
        seqlen=32,
        calibration=str(text),
        report_data="builtin",
        report_samples=2,
        evaluate=True,
    )
    told = json.loads((output / "atp.json").read_text("utf-8"))
    tuning = told["tuning"]
    assert tuning["settings"]["mode"] == "lora" and tuning["settings"]["rank"] == 16
    assert tuning["data"]["samples"] == result.samples == 4
    assert len(tuning["losses"]) == 2
    assert {"peft", "transformers", "accelerate"} <= set(tuning["provenance"]["versions"])
    assert told["schedule"]["allocation"] == "uniform"  # what pruning said is kept
    assert told["metrics"]["tuned"]["perplexity"] == tuning["metrics"]["after"]["perplexity"]
    assert str(tmp_path) not in json.dumps(told)
    card = (output / "README.md").read_text("utf-8")
    assert card.startswith("---\n") and "## Recovery training" in card
    assert "| perplexity |" in card and str(tmp_path) not in card
    assert (output / "rates.png").exists() and (output / "recipe.yaml").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no work folder is left
    [perplexity] = [one for one in result.comparisons if one.metric == "perplexity"]
    assert perplexity.value == result.metrics["after"]["perplexity"].value
    assert perplexity.reference_value == result.metrics["before"]["perplexity"].value
    # It can be tuned again, and pruned weights are measured as `atp eval` measures them.
    measured = atp_core.evaluate(
        str(output), report_data="builtin", report_samples=2, seqlen=32, batch_size=2
    )
    assert measured.metrics["perplexity"].value == pytest.approx(perplexity.value, rel=1e-6)
