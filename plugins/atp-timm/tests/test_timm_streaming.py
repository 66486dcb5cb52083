"""Models of timm are not streamed, and the user is told so before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

import atp_core
from atp_core.errors import UsageError
from atp_timm import _examples


def test_max_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    example = _examples.vit(tmp_path / "model")
    with pytest.raises(UsageError, match=r"plugin 'timm' cannot stream .*leave out --max-memory"):
        atp_core.prune(
            example.source.text, sparsity=0.5, output=tmp_path / "out", max_memory="64GB", samples=2
        )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
