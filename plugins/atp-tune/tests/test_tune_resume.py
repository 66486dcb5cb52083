"""An interrupted training goes on where it stopped, and gives what it would have given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import atp_tune
from atp_core.errors import UsageError
from atp_core.progress import Advance

GIVEN: dict[str, Any] = {"steps": 8, "batch": 4, "lr": 0.01, "seqlen": 32, "save_every": 2}


class Breaks:
    """Progress that is interrupted after some steps of training."""

    def __init__(self, after: int) -> None:
        self._left = after

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        """Open a step."""

        def advance(at: str) -> None:
            if title.startswith("training"):
                self._left -= 1
                if self._left < 0:
                    raise KeyboardInterrupt

        yield advance

    def note(self, text: str) -> None:
        """Drop the note."""


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_resumed_equals_uninterrupted(
    mode: Any,
    stories: Path,
    text: Path,
    tensors: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    given = {**GIVEN, "mode": mode, "calibration": str(text)}
    whole = atp_tune.tune(stories, output=tmp_path / "whole", **given)
    output = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        atp_tune.tune(stories, output=output, progress=Breaks(5), **given)
    work = tmp_path / ".broken.atp-work"
    assert not output.exists()
    assert sorted(path.name for path in (work / "tune").iterdir()) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    # Weights of checkpoints are safetensors; what else there is, transformers reads on resume.
    assert (work / "tune" / "checkpoint-4" / "model.safetensors").exists()

    with pytest.raises(UsageError, match="holds the results of an interrupted run"):
        atp_tune.tune(stories, output=output, **given)
    with pytest.raises(UsageError, match=r"cannot resume .*tune lr was 0\.01 and is 0\.02"):
        atp_tune.tune(stories, output=output, resume=True, **{**given, "lr": 0.02})

    resumed = atp_tune.tune(stories, output=output, resume=True, **given)
    assert list(resumed.losses) == pytest.approx(list(whole.losses), rel=1e-6)
    one, other = tensors(tmp_path / "whole"), tensors(output)
    assert all(bool((one[name] == other[name]).all()) for name in one)
    assert not work.exists()
