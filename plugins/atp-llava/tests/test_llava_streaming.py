"""A vision-language model that is streamed: the same output, bit for bit, as in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import atp_core


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in directory.glob("*.safetensors"):
        found.update(load_file(file))
    return found


@pytest.mark.parametrize("chains", [None, ["vision", "language"]], ids=["language", "both"])
def test_output_is_that_of_a_run_in_memory(
    llava_directory: Path, questions: Path, tmp_path: Path, chains: list[str] | None
) -> None:
    settings: dict[str, Any] = {
        "sparsity": 0.5,
        "calibration": str(questions),
        "report_data": str(questions),
        "samples": 4,
        "search_samples": 4,
        "beta": 0.05,
        "chains": chains,
    }
    plain = atp_core.prune(str(llava_directory), output=tmp_path / "plain", **settings)
    found = atp_core.prune(
        str(llava_directory), output=tmp_path / "streamed", max_memory="64GB", **settings
    )
    first, second = weights_of(tmp_path / "plain"), weights_of(tmp_path / "streamed")
    assert set(first) == set(second)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    for name, metric in plain.metrics["pruned"].items():
        assert metric.value == found.metrics["pruned"][name].value, name
    one, other = (
        json.loads((tmp_path / side / "config.json").read_text("utf-8"))
        for side in ("plain", "streamed")
    )
    assert one == other
