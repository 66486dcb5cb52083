"""What the tests of core and of every plugin share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("ATP_SHARED", Path(__file__).parent / ".." / "shared"))


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of something in the shared folder; skips the test where it is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"{name} is not in the shared folder (set ATP_SHARED)")
        return path.resolve()

    return find
