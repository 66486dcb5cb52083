"""The demos: ATP ahead of uniform on data that neither the training nor the search has seen."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from atp_core.cli import main

NEEDED = {"vision": "atp_timm", "clip": "atp_open_clip", "llava": "atp_llava"}
LOSS = {"vision": "cross_entropy", "clip": "cross_entropy", "llava": "answer_loss"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", NEEDED)
def test_demo(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in (NEEDED[kind], "sklearn"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    assert main(["demo", kind, "--json", "-o", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    dense, uniform, pruned = (
        told["metrics"][who][LOSS[kind]]["value"] for who in ("dense", "uniform", "pruned")
    )
    assert dense < pruned < uniform
    assert told["beta"] > 0
    assert told["sparsity_achieved"] == pytest.approx(told["sparsity_target"], abs=1e-4)
    assert {"atp.json", "README.md", "rates.png", "objective.png"} <= {
        file.name for file in (tmp_path / "out").iterdir()
    }


def test_unknown_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "audio"]) == 2
    assert "'vision'" in capsys.readouterr().err
