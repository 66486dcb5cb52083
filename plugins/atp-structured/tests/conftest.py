"""What the tests of this plugin share: tiny random models of every family, and their forwards."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

# Tests are imported by path, and helpers that lie beside them by name.
sys.path.insert(0, str(Path(__file__).parent))

from _families import FAMILIES, Family

MISSING = [
    name
    for name in ("torch_pruning", "transformers", "timm", "open_clip")
    if importlib.util.find_spec(name) is None
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a package that is not there."""
    if MISSING:
        for item in items:
            if "atp-structured" in str(item.path):
                item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(MISSING)}"))


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    """One family of models after the other."""
    return FAMILIES[request.param]


@pytest.fixture
def example(tmp_path: Path) -> Callable[[str, str], Any]:
    """A tiny model that another plugin offers, in a directory, with data."""
    from atp_core._plugins import build_manager

    def make(plugin: str, name: str) -> Any:
        place = tmp_path / "example"
        place.mkdir()
        [offer] = build_manager().offers("examples", plugin).all(name)
        module, _, function = str(offer.target).partition(":")
        return getattr(importlib.import_module(module), function)(place)

    return make


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
