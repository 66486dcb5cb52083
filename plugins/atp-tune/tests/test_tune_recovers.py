"""Training does what it is for: the loss falls, and held-out figures get better beyond noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import atp_core
import atp_tune


def test_a_classifier_learns_with_and_without_a_teacher(
    digits: Path, digit_images: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"calibration": str(digit_images), "steps": 20, "batch": 16, "lr": 5e-3}
    for name, more in (("own", {}), ("taught", {"teacher": "embedded:digits-vit"})):
        result = atp_tune.tune(digits, output=tmp_path / name, **given, **more)
        assert result.loss_last < result.loss_first


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_stories_recover_beyond_noise(
    mode: Any, shared: Callable[[str], Path], tmp_path: Path
) -> None:
    pruned = tmp_path / "pruned"
    data: dict[str, Any] = {
        "calibration": "builtin",
        "report_data": "builtin",
        "report_samples": 60,
        "seqlen": 128,
    }
    atp_core.prune(
        str(shared("models/stories260k")),
        sparsity=0.6,
        allocation="uniform",
        baseline=False,
        samples=16,
        output=pruned,
        **data,
    )
    result = atp_tune.tune(
        pruned, output=tmp_path / "out", mode=mode, steps=40, evaluate=True, **data
    )
    [perplexity] = [one for one in result.comparisons if one.metric == "perplexity"]
    assert perplexity.verdict == "better" and perplexity.interval is not None
    assert perplexity.value < 0.8 * perplexity.reference_value
