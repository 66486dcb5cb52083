"""The kernels, run by Triton's interpreter in processes of their own.

Whether kernels are interpreted is settled when triton is imported, and holds for the whole
process; so it must not happen in the one that runs the other tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("name", ["check_benchmark", "check_kernels", "check_models"])
def test_interpreted(name: str) -> None:
    pytest.importorskip("triton", reason="triton is not installed: there is none for this system")
    # No plugins of pytest but ours: workers and random orders are the outer run's.
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider",
            str(HERE / "interpreted" / f"{name}.py"),
        ],
        cwd=HERE.parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout, done.stdout
