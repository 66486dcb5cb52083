"""Fixtures: tiny models and questions made here, real ones from ``ATP_SHARED``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file

from _llava_tiny import tiny, write_questions


@pytest.fixture
def llava_directory(tmp_path: Path) -> Path:
    """A tiny LLaVA with its processor, as `save_pretrained` writes it."""
    directory = tmp_path / "llava"
    model, processor = tiny()
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """72 questions about 24 random images."""
    return write_questions(tmp_path / "data")


@pytest.fixture(scope="session")
def digits() -> Any:
    """The embedded model, trained when first asked for."""
    pytest.importorskip("sklearn")
    import atp_llava
    from atp_core.records import LoadRequest, Source

    return atp_llava.atp_load(Source("embedded:digits-llava"), LoadRequest())
