"""What the tests of this plugin share: Ray itself, and a model with data that workers find too."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

MISSING = [name for name in ("ray", "timm", "sklearn") if importlib.util.find_spec(name) is None]

SMALL: dict[str, Any] = {"samples": 16, "search_samples": 32, "report_samples": 40}
"""Little data, so that a trial takes a fraction of a second."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a package that is not there."""
    if MISSING:
        for item in items:
            if "atp-ray" in str(item.path):
                item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(MISSING)}"))


@pytest.fixture(scope="session")
def digits() -> str:
    """A ViT trained on handwritten digits, as every process on this machine can load it."""
    from atp_core.digits import folder

    folder()
    return "embedded:digits-vit"


@pytest.fixture
def small() -> dict[str, Any]:
    """Settings with little data."""
    return dict(SMALL)
