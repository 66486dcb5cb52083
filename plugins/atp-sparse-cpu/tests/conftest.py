"""Sparse weights and models; every test keeps what it compiles and measures in one folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from atp_sparse_cpu._library import forget, library


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATP_CACHE", str(folder))
        forget()
        yield folder
    forget()


@pytest.fixture
def kernels(_cache: Path) -> None:
    """Skips where this machine cannot run the kernels."""
    if library() is None:
        pytest.skip("this machine has no kernels for packed weights")


@pytest.fixture
def tiles(kernels: None) -> None:
    """Skips where this machine has no tiles of bfloat16 (AMX)."""
    found = library()
    if found is None or "amx-bf16" not in found.names:
        pytest.skip("this processor has no AMX, or its system does not let programs use it")


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
